"""Keeps secrets out of everything that is shown or written.

A value is secret when its key says so (``hub_token``, ``swanlab_api_key``) or when it looks like a credential that some
service issues (``hf_…``, ``https://user:password@host``), wherever it stands.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

HIDDEN: Final = "***"

_SECRET_KEY: Final = re.compile(
    r"(^|_)(api_?keys?|(access|private|secret|signing|encryption|account)_keys?|secrets?|passwords?|passwd|pwd"
    r"|passphrase|credentials?|authorization|auth|bearer|cookie|webhook(_urls?)?|dsn)(_|$)"
    r"|(^|_)(?P<token>[a-z0-9]*)_?token$"
)
_ORDINARY_TOKENS: Final = frozenset(
    {"pad", "eos", "bos", "unk", "mask", "sep", "cls", "image", "video", "audio", "special", "stop", "start", "end"}
    | {"begin", "think", "boi", "eoi", "fim", "prefix", "suffix", "per", "new", "next", "first", "last", "response"}
)
"""``pad_token`` and its like are words of a vocabulary."""

_FORMATS: Final = (
    r"hf_[A-Za-z0-9]{16,}",  # Hugging Face
    r"api_org_[A-Za-z0-9]{16,}",  # Hugging Face organisations
    r"sk-[A-Za-z0-9_-]{16,}",  # OpenAI, Anthropic and others
    r"gh[pousr]_[A-Za-z0-9]{16,}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{20,}",
    r"glpat-[A-Za-z0-9_-]{16,}",  # GitLab
    r"(?:AKIA|ASIA)[A-Z0-9]{16}",  # Amazon
    r"AIza[A-Za-z0-9_-]{30,}",  # Google
    r"ya29\.[A-Za-z0-9_-]{16,}",
    r"xox[abeprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"npm_[A-Za-z0-9]{20,}",
    r"pypi-[A-Za-z0-9_-]{50,}",  # long, so that `pypi:` model names and package names stay
    r"dckr_pat_[A-Za-z0-9_-]{16,}",
    r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
    r"r8_[A-Za-z0-9]{20,}",  # Replicate
    r"nvapi-[A-Za-z0-9_-]{20,}",
    r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+",  # JSON web tokens
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)",
)
_CREDENTIAL: Final = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(_FORMATS)})")
_PARTS: Final = (
    # What stands before and after the secret part is kept.
    re.compile(r"(?P<keep>\b[a-z][a-z0-9+.-]*://)[^\s/@]+(?=@)", re.IGNORECASE),
    re.compile(r"(?P<keep>\bBearer\s+)[A-Za-z0-9._~+/-]{8,}=*", re.IGNORECASE),
    re.compile(
        r"(?P<keep>[?&](?:[a-z_-]*token|key|api_?key|secret|sig|signature|password|x-amz-[a-z-]+)=)[^&\s#]+",
        re.IGNORECASE,
    ),
    re.compile(
        r"(?P<keep>https://(?:hooks\.slack\.com/services|(?:\w+\.)?discord(?:app)?\.com/api/webhooks"
        r"|open\.(?:feishu\.cn|larksuite\.com)/open-apis/bot/v2/hook|[\w.-]*webhook\.office\.com)/)\S+",
        re.IGNORECASE,
    ),
)


def is_secret(key: str) -> bool:
    """Whether a key's name says that its value is a secret."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key).replace("-", "_").lower()
    match = _SECRET_KEY.search(words)
    return match is not None and match["token"] not in _ORDINARY_TOKENS


def redact(values: Mapping[str, Any], secrets: Collection[str] = ()) -> dict[str, Any]:
    """A copy of the values in which each secret is ``***``; ``secrets`` names further keys that are secret."""
    hidden = {key for key in values if key in secrets or is_secret(str(key))}
    return {key: hide(value) if key in hidden else _clean(value) for key, value in values.items()}


def redact_text(text: str) -> str:
    """The text with everything in it that looks like a credential replaced by ``***``."""
    text = _CREDENTIAL.sub(HIDDEN, text)
    for pattern in _PARTS:
        text = pattern.sub(rf"\g<keep>{HIDDEN}", text)
    return text


def hide(value: Any) -> Any:
    """``***`` for whatever can hold a secret; true, false, null and nothing at all show only that there is none."""
    return value if isinstance(value, bool) or value is None or value == "" else HIDDEN


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return redact(value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    return value
