"""So many threads of a Django server, each with a connection of its own, which it keeps until standard input ends."""

import os
import sys
import threading

import django

os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"
django.setup()

from django.db import close_old_connections, connection, transaction  # noqa: E402


def serve(done: threading.Barrier, end: threading.Event) -> None:
    for turn in range(3):  # requests: what Django does before and after each
        close_old_connections()
        with connection.cursor() as cursor:
            for number in range(4):
                cursor.execute("select %s + 1 as usual_work", [turn + number])
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("select 1")
        close_old_connections()
    done.wait()
    end.wait()
    connection.close()


number = int(sys.argv[2])
done, end = threading.Barrier(number + 1), threading.Event()
threads = [threading.Thread(target=serve, args=(done, end), daemon=True) for _ in range(number)]
for thread in threads:
    thread.start()
done.wait(60)
print("idle", flush=True)
sys.stdin.read()
end.set()
for thread in threads:
    thread.join()
