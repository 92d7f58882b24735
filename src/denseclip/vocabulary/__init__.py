"""Class sets, prompts, ontologies and class embeddings."""

from denseclip.vocabulary.cache import EmbeddingCache, cache_folder
from denseclip.vocabulary.embeddings import ClassEmbeddings, embed_classes, ensemble
from denseclip.vocabulary.facts import DatasetFacts, class_set, class_set_names, dataset_facts, facts
from denseclip.vocabulary.ontology import BACKGROUND, Ontology
from denseclip.vocabulary.templates import (
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
    "DatasetFacts",
    "EmbeddingCache",
    "Ontology",
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
