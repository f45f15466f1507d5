"""What settings say together: what cannot be, and what is hardly meant. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations, pairwise
from typing import Any

from lib.conf.listening import Listening


def conflicts(values: Mapping[str, Any]) -> list[str]:
    """What cannot be together, among the values that are right by themselves."""
    complaints = []
    listen = values.get("listen", Listening.listen)
    servers = [("master", values["master"])] if "master" in values else []
    servers += [("slaver", each) for each in values.get("slaver", ())]
    for one, other in combinations(listen, 2):
        everywhere = "" in (one.host, other.host) and one.port == other.port and not (one.is_unix or other.is_unix)
        if one.meets(other) or everywhere:
            complaints.append(f"listen has {one} and {other}: wanted each address once")
    for (name, one), (other_name, other) in combinations(servers, 2):
        if one.meets(other):
            where = f"both {name}" if name == other_name else f"{name} and {other_name}"
            complaints.append(f"{other} is in {where}: wanted each server once")
    for name, server in servers:
        if any(each.meets(server) for each in listen):
            complaints.append(f"{server} is in listen and {name}: wanted another port, as the pool would meet itself")
    http = values.get("http_listen")
    if http is not None and any(each.meets(http) for each in listen):
        complaints.append(f"{http} is in listen and http_listen: wanted another port")
    return complaints + _tls_conflicts(values)


def _tls_conflicts(values: Mapping[str, Any]) -> list[str]:
    """What is missing beside the TLS settings that were given."""
    complaints = []
    for side in ("client", "server"):
        cert, key = f"{side}_tls_cert_file", f"{side}_tls_key_file"
        for one, other in ((cert, key), (key, cert)):
            if values.get(one) and not values.get(other):
                complaints.append(f"{one} is given without {other}: wanted both, or neither")
        if values.get(f"{side}_tls_crl_file") and not values.get(f"{side}_tls_ca_file"):
            complaints.append(f"{side}_tls_crl_file is given without {side}_tls_ca_file: wanted both, or no list")
    mode = values.get("client_tls_sslmode", "prefer")
    if mode in ("require", "verify-ca", "verify-full") and not values.get("client_tls_cert_file"):
        complaints.append(f"client_tls_sslmode is {mode!r}: wanted client_tls_cert_file, too")
    if mode.startswith("verify") and not values.get("client_tls_ca_file"):
        complaints.append(f"client_tls_sslmode is {mode!r}: wanted client_tls_ca_file, too")
    mode, authorities = values.get("server_tls_sslmode", "prefer"), values.get("server_tls_ca_file")
    if mode.startswith("verify") and not authorities:
        complaints.append(f"server_tls_sslmode is {mode!r}: wanted server_tls_ca_file, too")
    if authorities == "system" and mode != "verify-full":
        complaints.append("server_tls_ca_file is 'system': wanted server_tls_sslmode 'verify-full'")
    return complaints


def doubts(values: Mapping[str, Any]) -> list[str]:
    """What is allowed, but hardly meant."""
    said = []
    workers = values.get("worker_min_cnt", ())
    if any(later < earlier for earlier, later in pairwise(workers)):
        said.append(f"worker_min_cnt {list(workers)} does not grow: more frontends would have fewer workers")
    if any("password" in each and "user" not in each for each in values.get("conn_params", ())):
        said.append("conn_params has a password without a user: it is not used")
    if values.get("disable_conds_list") and not values.get("active_cnn_timeout"):
        said.append("disable_conds_list is given, but active_cnn_timeout is 0: nobody is disconnected anyway")
    if not values.get("slaver"):
        if values.get("enable_ha"):
            said.append("enable_ha is on, but slaver is empty: there is no standby to promote")
        if values.get("conn_params"):
            said.append("conn_params is given, but slaver is empty: there are no standbys to start workers on")
    return said
