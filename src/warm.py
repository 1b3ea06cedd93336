"""Imported once by the server that the processes of a sweep are forked from: what every run needs, paid for once.

Nothing here starts threads or touches a GPU; neither would survive the fork.
"""

import matplotlib.backends.backend_svg
import matplotlib.figure
import peft
import transformers.models.bert.modeling_bert
import transformers.models.distilbert.modeling_distilbert

import src.run
import src.runs.preload
import src.sweep
from src.compose import quiet_libraries
from src.runs.provenance import environment, git_commit

quiet_libraries()
environment()
git_commit()
