# The conf file of both pools of the demo. POOL says which one this is.

import os
import time
from pathlib import Path

PASSWORD = Path('/secrets/pool')  # made by the first server, when it makes its data directory
OTHER = {'pool1': 'pool2', 'pool2': 'pool1'}[os.environ['POOL']]

while not PASSWORD.exists():
    time.sleep(0.2)

all = {
    'listen': ('', 7777),
    'proxy_networks': [os.environ['PROXY'] + '/32'],  # haproxy, which says whom it speaks for
    'http_listen': ('', 9127),

    'admin_cnn': {'user': 'pool', 'password': PASSWORD.read_text().strip(), 'database': 'postgres'},
    'master': ('primary', 5432),
    'slaver': [('standby1', 5432), ('standby2', 5432)],

    # The first one promotes, and tells the other.
    'enable_ha': os.environ['POOL'] == 'pool1',
    'peers': [(OTHER, 7777)],
    'ha_state_file': '/var/lib/pgstmtpool/state',

    'pseudo_admin_users': ['demo'],
    'read_your_writes_timeout': 5,  # so that a standby is shown at work, however slow it is
}
