"""What MLflow needs before a run can be logged, imported once by the server that the processes of a sweep come from."""

import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  # the store of mlruns/, whose mappers these are
import sqlalchemy.orm

sqlalchemy.orm.configure_mappers()
