"""The life of runs: what they are, what they leave in MLflow, the processes that they run in."""

import logging
import os

# MLflow's telemetry and its chatter about schema creation are not what the person at the terminal asked for.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# A server that is gone is given up after half a minute of retries; MLflow's own seven take over four.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
# What it says of each retry; where they were in vain, one sentence of ours says so.
logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
