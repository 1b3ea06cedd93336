"""Imports what every run needs, once, in the server from which the processes of a sweep are forked.

Nothing here starts threads or uses a GPU; neither would survive the fork.
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
