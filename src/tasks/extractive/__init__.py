"""Extractive question answering: an encoder predicts the first and the last token of the answer in the passage.

A passage that is too long for the model is cut into windows (`windows`), which form batches (`batches`). The answer of
a question is the best span over all its windows (`spans`).
"""
