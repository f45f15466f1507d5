create table city (name text primary key, country text, people int);
insert into city values
    ('Tokyo', 'Japan', 37400068), ('Delhi', 'India', 28514000), ('Shanghai', 'China', 25582000),
    ('São Paulo', 'Brazil', 21650000), ('Mexico City', 'Mexico', 21581000), ('Cairo', 'Egypt', 20076000);
