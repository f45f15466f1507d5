"""What the shop sells."""

from django.db import models


class Maker(models.Model):
    name = models.CharField(max_length=50, unique=True)


class Item(models.Model):
    maker = models.ForeignKey(Maker, on_delete=models.CASCADE, related_name="items")
    name = models.CharField(max_length=50)
    price = models.DecimalField(max_digits=8, decimal_places=2)
    stock = models.IntegerField(default=0)
    details = models.JSONField(default=dict)
    added = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = (models.Index(fields=["name"]),)
        constraints = (models.CheckConstraint(condition=models.Q(stock__gte=0), name="stock_is_not_negative"),)
