"""Faults, and the proof of what survives them: real servers, real clients, a nemesis, one history and one checker.

    world ── servers and workers as processes ◄── nemesis: kill, pause, fail over, cut off, fill up
      ▲
    clients: confluent-kafka, aiokafka, the engine ──► history (JSON lines) ──► checker ──► report

`python -m tests.system.faults run` is the long run, `… windows` measures what each setting can lose.
"""
