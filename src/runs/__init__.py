"""Runs: their identity, their records in MLflow, and the processes that they run in."""

import logging
import os

# Users did not ask for MLflow's telemetry or its messages about schema creation.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# Requests to a server that is gone fail after half a minute of retries, and requests that it accepts but never answers
# after two minutes. With MLflow's defaults (7 retries, 120 seconds) that would be 4 and 15 minutes.
REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
for name, value in REQUESTS.items():
    os.environ.setdefault(name, value)
os.environ.setdefault("PGCONNECT_TIMEOUT", "10")  # of a database; PostgreSQL's default is two minutes
# Libraries log each retry and each refused statement; if all retries fail, our error is one sentence.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
for name in ("mlflow.store.db", "sqlalchemy.pool", "alembic"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
