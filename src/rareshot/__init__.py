"""Few-shot learning for rare-disease images. A few-shot learner is a function from a support set to a classifier."""
