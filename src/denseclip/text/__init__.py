"""Class sets, prompts, ontologies and class embeddings."""

from denseclip.text.embeddings import (
    TEMPLATES_1,
    TEMPLATES_80,
    TEMPLATES_85,
    ClassEmbeddings,
    EmbeddingCache,
    cache_folder,
    embed_classes,
    ensemble,
    official_templates,
    templates,
)
from denseclip.text.prompts import (
    BACKGROUND,
    ClassPrompts,
    DatasetFacts,
    class_set,
    class_set_names,
    dataset_facts,
    facts,
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
