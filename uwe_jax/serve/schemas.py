"""What goes over the wire: the requests, with their limits, and the answers. OpenAPI shows these docstrings."""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from uwe_jax.interaction import Side

MOST_TEXTS = 64  # of a request; `python -m uwe_jax.rank --input` ranks any number
MOST_CHARACTERS = 2000  # of a text; models read its first 64 tokens
MOST_TARGETS = 200  # of each query
MOST_ON_SHORTLIST = 2048
BODY_BYTES = 4 << 20  # any request within these limits fits, even with every character escaped


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError('expected a text that is not blank')
    return text


Text = Annotated[
    str,
    Field(min_length=1, max_length=MOST_CHARACTERS, json_schema_extra={'pattern': r'\S'}),
    AfterValidator(_not_blank),
]
Name = Annotated[str, Field(max_length=100)]


class Request(BaseModel):
    """A request: fields of other names are refused, and no value is converted."""

    model_config = ConfigDict(extra='forbid', strict=True)


class RankRequest(Request):
    """Texts for which the targets of a space are ranked."""

    queries: list[Text] = Field(min_length=1, max_length=MOST_TEXTS, examples=[['data engineer']])
    space: Name | None = Field(None, description='The target space; by default the first.')
    k: int = Field(10, ge=1, le=MOST_TARGETS, description='How many of the best targets of each query.')
    shortlist: int | None = Field(
        None,
        ge=1,
        le=MOST_ON_SHORTLIST,
        description='Score only so many targets, those with the nearest mean vectors: faster, and not exact. '
        'Spaces in LanceDB always have a shortlist.',
    )
    model: Name | None = Field(None, description='The model; by default the first.')


class Hit(BaseModel):
    """A ranked target."""

    id: int | str = Field(description='Its position in the space; in LanceDB, the id it was given.')
    text: str
    score: float


class Ranked(BaseModel):
    """A query and its best targets, best first."""

    query: str
    targets: list[Hit]


class RankAnswer(BaseModel):
    """The queries in the order of the request."""

    model: str
    space: str
    results: list[Ranked]


class Pair(Request):
    """A query and a target."""

    query: Text
    target: Text


Skills = Annotated[
    Side | None,
    Field(description='Which of the two texts is a skill. Only models of score.attend=from_skill need to know.'),
]


class ScoreRequest(Request):
    """Pairs of texts to score."""

    pairs: list[Pair] = Field(min_length=1, max_length=MOST_TEXTS)
    skills: Skills = None
    model: Name | None = Field(None, description='The model; by default the first.')


class ScoreAnswer(BaseModel):
    """sim(query, target) of each pair, in the order of the request."""

    model: str
    scores: list[float]


class AttentionRequest(Pair):
    """A pair of texts to look at token by token."""

    skills: Skills = None
    model: Name | None = Field(None, description='The model; by default the first.')


class AttentionAnswer(BaseModel):
    """A, the weight of each pair of tokens, and C, their cosines: one row per token of the query."""

    model: str
    query_tokens: list[str]
    target_tokens: list[str]
    a: list[list[float]]
    c: list[list[float]]
    score: float


class ModelInfo(BaseModel):
    """A model that is served."""

    name: str
    attention: bool = Field(description='Whether it weighs tokens against each other, so that /attention can be asked.')


class SpaceInfo(BaseModel):
    """A target space that is served."""

    name: str
    targets: int
    skills: Side | None = Field(description='Where the skills are when it is ranked, if the service was told.')


class Spaces(BaseModel):
    """What is served; the first of each is the default."""

    models: list[ModelInfo]
    spaces: list[SpaceInfo]


class FieldError(BaseModel):
    """What is wrong with one field."""

    pointer: str = Field(description='The field of the body as a JSON pointer: #/queries/0')
    detail: str


class Problem(BaseModel):
    """Problem details (RFC 9457)."""

    type: str = 'about:blank'
    title: str
    status: int
    detail: str
    errors: list[FieldError] = []
