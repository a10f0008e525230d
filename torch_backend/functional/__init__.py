"""Losses, metrics, and classifiers of a support set, on tensors, for one task or many with leading axes."""

from torch_backend.functional.losses import cross_entropy, mean_squared_error, negative_log_likelihood
from torch_backend.functional.matching import (
    full_context_embeddings,
    matching_log_probas,
    matching_loss,
    matching_probas,
    pairwise_cosine_similarity,
)
from torch_backend.functional.metrics import accuracy, hardness_metric
from torch_backend.functional.prototypes import get_num_samples, get_prototypes, prototypical_loss, squared_distances
from torch_backend.functional.regression import LinearParameters, logistic_regression, ridge_regression
from torch_backend.functional.svm import support_vector_machine

__all__ = [
    "LinearParameters",
    "accuracy",
    "cross_entropy",
    "full_context_embeddings",
    "get_num_samples",
    "get_prototypes",
    "hardness_metric",
    "logistic_regression",
    "matching_log_probas",
    "matching_loss",
    "matching_probas",
    "mean_squared_error",
    "negative_log_likelihood",
    "pairwise_cosine_similarity",
    "prototypical_loss",
    "ridge_regression",
    "squared_distances",
    "support_vector_machine",
]
