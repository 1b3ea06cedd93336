"""Imports what MLflow needs to log a run, once, in the server that the processes of a sweep are forked from."""

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  # the store of mlruns/, whose mappers these are
import sqlalchemy.orm

sqlalchemy.orm.configure_mappers()
