"""tuneoff: full fine-tuning or LoRA, here, at my budget? See README.md."""

import logging

# peft imports bitsandbytes where it is installed, which then warns of a kernel that it has not got from the hub.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
