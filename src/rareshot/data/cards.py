"""Facts of a data set that code and reports need: its classes, which are common, which rare, licence, citation (§2.1)."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class DataCard:
    """What is known of a data set before an image is opened."""

    name: str
    """Short name, used in paths and on the command line."""
    title: str
    classes: dict[str, str] = field(default_factory=dict)
    """Class name as it stands in the labels → what it is called in words."""
    common: tuple[str, ...] = ()
    """Classes to meta-train on."""
    rare: tuple[str, ...] = ()
    """Classes that stay unseen until `adapt`."""
    site_column: str = ""
    """The extra column that says where an image comes from, for the `site` protocol."""
    licence: str = ""
    citation: str = ""

    def __post_init__(self) -> None:
        both = sorted(set(self.common) & set(self.rare))
        if both:
            raise ValueError(
                f"card {self.name!r}: {', '.join(both)} cannot be both common and rare; name each class once"
            )


ISIC2018 = DataCard(
    name="isic2018",
    title="ISIC 2018 Task 3 training set (HAM10000)",
    classes={
        "nv": "melanocytic nevus",
        "mel": "melanoma",
        "bkl": "benign keratosis",
        "bcc": "basal cell carcinoma",
        "akiec": "actinic keratosis",
        "vasc": "vascular lesion",
        "df": "dermatofibroma",
    },
    common=("nv", "mel", "bkl", "bcc"),
    rare=("akiec", "vasc", "df"),
    site_column="site",
    licence="CC BY-NC 4.0",
    citation="Tschandl, Rosendahl, Kittler, Scientific Data 5:180161 (2018); Codella et al., arXiv:1902.03368 (2019)",
)

PAD_UFES_20 = DataCard(
    name="pad-ufes-20",
    title="PAD-UFES-20, clinical smartphone photographs",
    classes={
        "bcc": "basal cell carcinoma",
        "nev": "nevus",
        "ack": "actinic keratosis",
        "sek": "seborrheic keratosis",
        "mel": "melanoma",
        "scc": "squamous cell carcinoma",
    },
    common=("bcc", "nev", "ack", "sek"),
    rare=("scc", "mel"),
    licence="CC BY 4.0",
    citation="Pacheco et al., Data in Brief 32:106221 (2020)",
)

DERMOFIT = DataCard(
    name="dermofit",
    title="Dermofit Image Library",
    classes={
        "AK": "actinic keratosis",
        "BCC": "basal cell carcinoma",
        "ML": "melanocytic nevus",
        "SCC": "squamous cell carcinoma",
        "SK": "seborrhoeic keratosis",
        "IEC": "intraepithelial carcinoma",
        "PYO": "pyogenic granuloma",
        "VASC": "haemangioma",
        "DF": "dermatofibroma",
        "MEL": "melanoma",
    },
    common=("AK", "BCC", "ML", "SK", "IEC", "DF", "MEL"),
    rare=("SCC", "VASC", "PYO"),
    licence="Edinburgh Dermofit licence, not for redistribution",
    citation="Ballerini, Fisher, Aldridge, Rees, in Color Medical Image Analysis (2013)",
)

DERMAMNIST = DataCard(
    name="dermamnist",
    title="DermaMNIST (MedMNIST v2); carries no lesion ids",
    classes=dict(ISIC2018.classes),
    common=ISIC2018.common,
    rare=ISIC2018.rare,
    licence="CC BY-NC 4.0",
    citation="Yang et al., Scientific Data 10:41 (2023)",
)

CARDS = {card.name: card for card in (ISIC2018, PAD_UFES_20, DERMOFIT, DERMAMNIST)}
"""Every data set that rareshot knows by name; one line adds another, and one in `GROUP_NAMES`."""

GROUP_NAMES = {
    "isic2018": "lesion",
    "pad-ufes-20": "patient",
    "dermofit": "lesion",
    "dermamnist": "image",
    "synthetic": "lesion",
}
"""What a group is, by the name of the card; of other data nobody has said it."""
