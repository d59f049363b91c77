"""MAML's exact meta-gradient for conv4 without a graph: what autograd gives, for less time and memory.

Per task: `steps` plain forward and backward passes; then backwards through the steps v ← v − γ H v, where H is the
Hessian of the support loss at that step, and its product with v is written by hand (forward over reverse; see `blocks`).
Only conv4 is known here; `supports` says so, and the caller takes autograd for everything else.

| symbol | is |
|---|---|
| γ | `lr`, the rate of the inner steps |
| v | ∂query loss/∂parameters, at the adapted parameters and then one step earlier at a time |
| H | ∂²support loss/∂parameters², at the parameters of a step |

Functions here keep no state: several tasks may run in several threads. `batched` takes several at once, side by side in the
same operations: that is for a GPU.
"""

from rareshot.explicit import batched
from rareshot.explicit.network import NORMS, Params, supports
from rareshot.explicit.task import TaskGradient, adapt, meta_gradient, moments

__all__ = ["NORMS", "Params", "TaskGradient", "adapt", "batched", "meta_gradient", "moments", "supports"]
