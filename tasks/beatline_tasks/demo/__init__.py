"""The demo: real data from Beat through a queue and two workers into PostgreSQL, one worker killed on the way.

At the end it counts, from the feed's own log and without asking the ledger, what was lost and what was doubled.
"""
