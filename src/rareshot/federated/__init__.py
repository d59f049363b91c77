"""Meta-training that several hospitals share: their images stay where they are, weights travel (the paper's future work, §3).

Eq. (3) weighs each task by its own loss, so a hospital can weigh its tasks by itself: a client goes some iterations of
Algorithm 1 on its own common diseases, the server takes the mean of what the clients send back, and the next round begins
there. With one client that holds all images this is `fit`, bit for bit.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-Efficient Learning of Deep Networks from Decentralized Data,
AISTATS 2017, arXiv 1602.05629 (federated averaging). Chen, Luo, Dong, Li, He: Federated Meta-Learning with Fast Convergence
and Efficient Communication, 2018, arXiv 1802.07876.

`client` is what a hospital does, `server` what is done between them, `simulation` both on one machine; `client_app` and
`server_app` are the doors to Flower, which carries the messages.
"""

from rareshot.methods import METHODS
from rareshot.methods.maml import MAML
from rareshot.methods.protonet import ProtoNet
from rareshot.methods.relation import RelationNet

Episodic = MAML | ProtoNet | RelationNet
"""Methods that train on tasks. Their weights name no class, so hospitals need not have the same diseases."""
SHARED = [name for name, method in METHODS.items() if isinstance(method, Episodic)]
"""Their names."""


def refuse_other_than_episodic(method: object, name: str) -> Episodic:
    """The method, if hospitals can share its training.

    Raises:
        ValueError: if it trains a classifier of one fixed set of classes, or not at all.
    """
    if not isinstance(method, Episodic):
        raise ValueError(
            f"{name} cannot be federated: only methods that train on tasks can, as their weights name no class; "
            f"take one of {', '.join(SHARED)}"
        )
    return method
