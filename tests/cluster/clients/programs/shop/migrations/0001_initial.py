"""As made by `makemigrations`, but for its layout."""

from django.db import migrations, models
from django.db.models.deletion import CASCADE

BIG_KEY = models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        migrations.CreateModel(
            name="Maker",
            fields=[("id", BIG_KEY), ("name", models.CharField(max_length=50, unique=True))],
        ),
        migrations.CreateModel(
            name="Item",
            fields=[
                ("id", BIG_KEY.clone()),
                ("name", models.CharField(max_length=50)),
                ("price", models.DecimalField(decimal_places=2, max_digits=8)),
                ("stock", models.IntegerField(default=0)),
                ("details", models.JSONField(default=dict)),
                ("added", models.DateTimeField(auto_now_add=True)),
                ("maker", models.ForeignKey(on_delete=CASCADE, related_name="items", to="shop.maker")),
            ],
            options={
                "indexes": [models.Index(fields=["name"], name="shop_item_name_31df9c_idx")],
                "constraints": [models.CheckConstraint(condition=models.Q(stock__gte=0), name="stock_is_not_negative")],
            },
        ),
    )
