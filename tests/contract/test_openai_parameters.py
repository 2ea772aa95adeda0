"""Every parameter that the official client can send is one that we know: acted on, harmless, or refused by its name."""

from typing import Any

import pytest
from openai.types import completion_create_params, embedding_create_params
from openai.types.chat import (
    chat_completion_allowed_tools_param,
    chat_completion_assistant_message_param,
    chat_completion_custom_tool_param,
    chat_completion_developer_message_param,
    chat_completion_function_message_param,
    chat_completion_message_custom_tool_call_param,
    chat_completion_message_function_tool_call_param,
    chat_completion_stream_options_param,
    chat_completion_system_message_param,
    chat_completion_tool_message_param,
    chat_completion_user_message_param,
    completion_list_params,
    completion_update_params,
)
from openai.types.chat import completion_create_params as chat_params
from openai.types.shared_params import function_definition, response_format_json_schema

from headrace.api.input_fields import EmbeddingBody
from headrace.api.metadata import MetadataBody
from headrace.api.openai_fields import (
    AllowedTools,
    CacheOptions,
    CallOfTool,
    ChatBody,
    CompletionBody,
    Custom,
    Function,
    JsonSchema,
    Message,
    StreamOptions,
)
from headrace.api.openai_stored import decode_list

PARAMS: list[tuple[type, Any]] = [
    (ChatBody, chat_params.CompletionCreateParamsBase),
    (ChatBody, chat_params.CompletionCreateParamsStreaming),
    (CacheOptions, chat_params.PromptCacheOptions),
    (Function, chat_params.Function),
    (Function, function_definition.FunctionDefinition),
    (Custom, chat_completion_custom_tool_param.Custom),
    (AllowedTools, chat_completion_allowed_tools_param.ChatCompletionAllowedToolsParam),
    (CallOfTool, chat_completion_message_function_tool_call_param.ChatCompletionMessageFunctionToolCallParam),
    (CallOfTool, chat_completion_message_custom_tool_call_param.ChatCompletionMessageCustomToolCallParam),
    (StreamOptions, chat_completion_stream_options_param.ChatCompletionStreamOptionsParam),
    (JsonSchema, response_format_json_schema.JSONSchema),
    (Message, chat_completion_assistant_message_param.ChatCompletionAssistantMessageParam),
    (Message, chat_completion_developer_message_param.ChatCompletionDeveloperMessageParam),
    (Message, chat_completion_function_message_param.ChatCompletionFunctionMessageParam),
    (Message, chat_completion_system_message_param.ChatCompletionSystemMessageParam),
    (Message, chat_completion_tool_message_param.ChatCompletionToolMessageParam),
    (Message, chat_completion_user_message_param.ChatCompletionUserMessageParam),
    (CompletionBody, completion_create_params.CompletionCreateParamsBase),
    (EmbeddingBody, embedding_create_params.EmbeddingCreateParams),
    (MetadataBody, completion_update_params.CompletionUpdateParams),
]


@pytest.mark.parametrize(("ours", "theirs"), PARAMS, ids=lambda one: getattr(one, "__name__", ""))
def test_every_parameter_of_the_client_is_known(ours: Any, theirs: Any) -> None:
    assert set(theirs.__annotations__) <= set(ours.__struct_fields__)


def test_every_parameter_of_a_list_is_known() -> None:
    values = {"limit": "1", "order": "asc"}
    for name in completion_list_params.CompletionListParams.__annotations__:
        wire = "metadata[a]" if name == "metadata" else name
        decode_list({wire: [values.get(name, "x")]})
