"""Beat: RedBeat's scheduler, deciding from PostgreSQL. `celery -A beatline beat` finds it by the name `beatline`."""
