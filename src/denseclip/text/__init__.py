"""Class sets, prompts, ontologies and class embeddings."""

from denseclip.text.embeddings import ClassEmbeddings, EmbeddingCache, cache_folder, embed_classes, ensemble
from denseclip.text.prompts import (
    BACKGROUND,
    ClassPrompts,
    DatasetFacts,
    class_set,
    class_set_names,
    dataset_facts,
    facts,
)
from denseclip.text.templates import (
    TEMPLATES_1,
    TEMPLATES_80,
    TEMPLATES_85,
    official_templates,
    templates,
)

__all__ = [
    "BACKGROUND",
    "TEMPLATES_1",
    "TEMPLATES_80",
    "TEMPLATES_85",
    "ClassEmbeddings",
    "ClassPrompts",
    "DatasetFacts",
    "EmbeddingCache",
    "cache_folder",
    "class_set",
    "class_set_names",
    "dataset_facts",
    "embed_classes",
    "ensemble",
    "facts",
    "official_templates",
    "templates",
]
