"""The life of runs: what they are, what they leave in MLflow, the processes that they run in."""

import logging
import os

# MLflow's telemetry and its chatter about schema creation are not what the person at the terminal asked for.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# A server that is gone is given up after half a minute of retries, one that takes a request and never answers it after
# two minutes; MLflow's own values (7 retries, 120 seconds) make that four minutes and a quarter of an hour.
REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "4", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
for name, value in REQUESTS.items():
    os.environ.setdefault(name, value)
os.environ.setdefault("PGCONNECT_TIMEOUT", "10")  # of a database; PostgreSQL's own is two minutes
# What libraries say of each retry and of each statement that a database refuses; where all was in vain, one sentence of
# ours says so.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
for name in ("mlflow.store.db", "sqlalchemy.pool", "alembic"):
    logging.getLogger(name).setLevel(logging.CRITICAL)
