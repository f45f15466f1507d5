"""The shop's own tests, run by Django's own runner: it creates a database for them and drops it afterwards."""

import threading
from decimal import Decimal

from django.db import IntegrityError, connection, models, transaction
from django.test import TestCase, TransactionTestCase

from shop.models import Item, Maker


class Orm(TestCase):
    @classmethod
    def setUpTestData(cls):
        makers = Maker.objects.bulk_create([Maker(name=f"maker {number}") for number in range(5)])
        Item.objects.bulk_create(
            Item(maker=maker, name=f"{maker.name}'s {number}", price=number, stock=number, details={"n": number})
            for maker in makers
            for number in range(300)
        )

    def test_rows_are_found_and_counted(self):
        self.assertEqual(Item.objects.filter(maker__name="maker 3", details__n__lt=10).count(), 10)
        sums = Maker.objects.annotate(worth=models.Sum(models.F("items__price") * models.F("items__stock")))
        self.assertEqual({maker.worth for maker in sums}, {Decimal(sum(n * n for n in range(300)))})
        with self.assertNumQueries(2):
            makers = Maker.objects.prefetch_related("items")
            self.assertEqual(sum(len(maker.items.all()) for maker in makers), 1500)

    def test_rows_are_changed(self):
        item, created = Item.objects.update_or_create(name="maker 1's 7", defaults={"stock": 70})
        self.assertFalse(created)
        Item.objects.filter(pk=item.pk).update(stock=models.F("stock") + 1)
        item.refresh_from_db()
        self.assertEqual(item.stock, 71)
        with self.assertRaises(IntegrityError), transaction.atomic():
            Item.objects.filter(pk=item.pk).update(stock=-1)
        self.assertTrue(Maker.objects.filter(name="maker 2").exists())
        deleted, _ = Maker.objects.filter(name="maker 2").delete()
        self.assertEqual(deleted, 301)

    def test_a_cursor_on_the_server_gives_all_rows(self):
        walked = Item.objects.order_by("pk").iterator(chunk_size=100)
        self.assertEqual(sum(1 for _ in walked), 1500)

    def test_time_zone_is_that_of_the_connection(self):
        with connection.cursor() as cursor:
            cursor.execute("show timezone")
            self.assertEqual(cursor.fetchone(), ("UTC",))


class Transactions(TransactionTestCase):
    def test_each_thread_waits_for_the_other_ones_lock(self):
        item = Item.objects.create(maker=Maker.objects.create(name="the only"), name="rare", price=1, stock=20)

        def buy():
            for _ in range(5):
                with transaction.atomic():
                    mine = Item.objects.select_for_update().get(pk=item.pk)
                    mine.stock -= 1
                    mine.save()
            connection.close()

        buyers = [threading.Thread(target=buy) for _ in range(4)]
        for buyer in buyers:
            buyer.start()
        for buyer in buyers:
            buyer.join()
        item.refresh_from_db()
        self.assertEqual(item.stock, 0)

    def test_a_cursor_outside_of_a_transaction_gives_all_rows(self):
        maker = Maker.objects.create(name="prolific")
        Item.objects.bulk_create(Item(maker=maker, name=str(number), price=1) for number in range(500))
        self.assertEqual(sum(1 for _ in Item.objects.iterator(chunk_size=50)), 500)

    def test_what_is_to_be_done_on_commit_is_done_then(self):
        done = []
        with transaction.atomic():
            transaction.on_commit(lambda: done.append("outer"))
            try:
                with transaction.atomic():
                    transaction.on_commit(lambda: done.append("inner"))
                    Maker.objects.create(name="undone")
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            self.assertEqual(done, [])
        self.assertEqual(done, ["outer"])
        self.assertEqual(Maker.objects.count(), 0)
