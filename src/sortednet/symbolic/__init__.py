"""SymbolicGPT: symbolic regression as a language model, with the interface of scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..imports.lazy import attach
from ..imports.packages import check_installed

if TYPE_CHECKING:
    from .configuration import GeneratorConfig, ModelConfig
    from .data import ProblemData, collate_problems
    from .estimator import SymbolicGPTRegressor, UnfamiliarDataWarning
    from .expressions import Tokenizer, make_pool
    from .familiarity import Familiarity
    from .files import Pretrained, load_model, save_model, shipped
    from .fit import Candidate, search
    from .formula import Formula, readable_names
    from .model import SymbolicGPT, TNet, token_loss
    from .search_config import SearchConfig

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

_HOMES = {
    "configuration": ["GeneratorConfig", "ModelConfig"],
    "data": ["ProblemData", "collate_problems"],
    "estimator": ["SymbolicGPTRegressor", "UnfamiliarDataWarning"],
    "expressions": ["Tokenizer", "make_pool"],
    "familiarity": ["Familiarity"],
    "files": ["Pretrained", "load_model", "save_model", "shipped"],
    "fit": ["Candidate", "search"],
    "formula": ["Formula", "readable_names"],
    "model": ["SymbolicGPT", "TNet", "token_loss"],
    "search_config": ["SearchConfig"],
}

check_installed("Finding formulas", "symbolic", "numpy", "scipy", "sklearn", "sympy", "transformers")
__getattr__, __dir__ = attach(__name__, _HOMES)
