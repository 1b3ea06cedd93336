"""Generative question answering: a decoder reads passage and question, and writes the answer."""
