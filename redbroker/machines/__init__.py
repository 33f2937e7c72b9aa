"""Rules as pure state machines, `step(state, event, now) -> state, effects`: no I/O, no clock.

Consumer groups and transactions will live here; nothing does yet.
"""
