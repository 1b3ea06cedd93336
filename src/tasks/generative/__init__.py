"""Generative question answering: a decoder reads passage and question, and generates the answer."""
