"""Ours against the stock recipe; `__main__.py` says what is measured and how."""
