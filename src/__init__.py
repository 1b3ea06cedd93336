"""tuneoff: full fine-tuning or LoRA, here, at my budget? See README.md."""
