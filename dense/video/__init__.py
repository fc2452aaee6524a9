"""Video anomaly detection: networks that predict the middle frames of a clip, and scores of their errors.

Import from the files; ``frames``, ``datasets``, ``predictor`` and ``metrics`` need OpenCV and MMEngine,
``visualization`` also Matplotlib and Pillow.
"""
