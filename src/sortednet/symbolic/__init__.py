"""SymbolicGPT: symbolic regression as a language model, with the interface of scikit-learn."""

from __future__ import annotations

from .data import ProblemData, collate_problems
from .estimator import SymbolicGPTRegressor, UnfamiliarDataWarning
from .expressions import GeneratorConfig, Tokenizer, make_pool
from .familiarity import Familiarity
from .files import Pretrained, load_model, save_model, shipped
from .fit import Candidate, SearchConfig, search
from .formula import Formula, readable_names
from .model import ModelConfig, SymbolicGPT, TNet, token_loss

__all__ = [
    "Candidate",
    "Familiarity",
    "Formula",
    "GeneratorConfig",
    "ModelConfig",
    "Pretrained",
    "ProblemData",
    "SearchConfig",
    "SymbolicGPT",
    "SymbolicGPTRegressor",
    "TNet",
    "Tokenizer",
    "UnfamiliarDataWarning",
    "collate_problems",
    "load_model",
    "make_pool",
    "readable_names",
    "save_model",
    "search",
    "shipped",
    "token_loss",
]
