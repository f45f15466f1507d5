\set number random(1, 1000)
select :number + 1 as usual_work;
begin;
select :number;
commit;
