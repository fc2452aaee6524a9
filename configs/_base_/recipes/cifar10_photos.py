# What small classifiers of photographs of 32 pixels share, which train in minutes on a CPU.
_base_ = ["../datasets/cifar10_photos.py", "../schedules/adamw_12e.py", "../runtimes/dense.py"]

model = dict(type="ImageClassifier", num_classes=10, label_smoothing=0.1)
