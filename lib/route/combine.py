"""One verdict for several texts that run as one unit: a pipeline of the extended protocol with one Sync.

Pure.
"""

from __future__ import annotations

from lib.route.verdict import Kind, Verdict

STANDBY_HINT = b"/*s*/"

# What cannot be read (FunctionCall, a text that is not all there yet) could do anything.
OPAQUE = Verdict(Kind.OPAQUE, clean=True, ddl=True, reason="cannot be read before it runs")

# What was parsed before was classed then, and has left its marks on the worker that it was parsed on.
EARLIER = Verdict(Kind.OPAQUE, reason="runs what was parsed before")


def combine(first: Verdict, second: Verdict) -> Verdict:
    """What holds for both: the graver class, the flags of either, the server of the first."""
    graver = max(first, second, key=lambda verdict: verdict.kind)
    return Verdict(
        graver.kind,
        standby=first.standby,
        clean=first.clean or second.clean,
        holds=first.holds or second.holds,
        follows=first.follows or second.follows,
        spoils=first.spoils or second.spoils,
        session=first.session or second.session,
        sets=first.sets | second.sets,
        resets=first.resets | second.resets,
        local_sets=first.local_sets | second.local_sets,
        local_resets=first.local_resets | second.local_resets,
        releases=first.releases or second.releases,
        deallocates=first.deallocates | second.deallocates,
        frees=first.frees | second.frees,
        transaction=first.transaction or second.transaction or first.ends or second.ends,
        ddl=first.ddl or second.ddl,
        currval=first.currval or second.currval,
        reason=graver.reason,
        refusal=first.refusal or second.refusal,
    )
