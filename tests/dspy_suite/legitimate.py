"""What of DSPy's own tests a mixture in a predictor's place rightly fails, by reason.

Each reason is a difference that a mixture has by design; whoever adds a test here says which one it is.
"""

__all__ = ["reason_of"]

OF_EVERY_MIXTURE = {
    "reads or writes what only dspy.Predict has: its signature, demos, LM, reset(), update_config(), its own state": """
        predict/test_chain_of_thought.py::test_initialization_with_string_signature
        predict/test_predict.py::test_reset_method
        predict/test_predict.py::test_legacy_lm_state_without_class_marker_loads_as_lm
        predict/test_predict.py::test_custom_lm_load_state_requires_trusted_opt_in
        predict/test_predict.py::test_nested_custom_lm_class_path_loads_for_trusted_state
        predict/test_predict.py::test_instructions_after_dump_and_load_state
        predict/test_predict.py::test_demos_after_dump_and_load_state
        predict/test_predict.py::test_typed_demos_after_dump_and_load_state
        predict/test_predict.py::test_signature_fields_after_dump_and_load_state
        predict/test_predict.py::test_load_ignores_serialized_endpoint_override_by_default
        predict/test_predict.py::test_load_allows_serialized_endpoint_override_with_opt_in
        predict/test_predict.py::test_load_state_ignores_serialized_endpoint_override_by_default
        predict/test_predict.py::test_load_state_allows_serialized_endpoint_override_with_opt_in
        predict/test_predict.py::test_load_state_ignores_serialized_model_list_endpoint_override_by_default
        predict/test_predict.py::test_load_prevents_serialized_endpoint_override_reaching_litellm
        predict/test_predict.py::test_load_blocks_serialized_model_list_unless_opted_in
        predict/test_predict.py::test_load_uses_env_api_key_without_honoring_serialized_endpoint_override
        predict/test_predict.py::test_config_management
        predict/test_predict.py::test_load_state_chaining
        predict/test_predict.py::test_dump_state_pydantic_non_primitive_types
        primitives/test_base_module.py::test_save_and_load_with_json
        primitives/test_base_module.py::test_save_with_extra_modules
        primitives/test_base_module.py::test_module_history
        primitives/test_base_module.py::test_module_history_with_concurrency
        primitives/test_base_module.py::test_module_history_async
        primitives/test_module.py::test_load_state_is_transactional""",
    "asks for predictors by name, or for isinstance of dspy.Predict: those of a mixture lie one level deeper": """
        predict/test_predict.py::test_named_predictors
        primitives/test_base_module.py::test_load_with_version_mismatch
        primitives/test_module.py::test_named_predictors
        primitives/test_module.py::test_nested_named_predictors
        teleprompt/test_gepa.py::test_workflow_with_custom_instruction_proposer_and_component_selector
        streaming/test_streaming.py::test_stream_listener_returns_correct_chunk_chat_adapter
        streaming/test_streaming.py::test_stream_listener_returns_correct_chunk_json_adapter
        streaming/test_streaming.py::test_stream_listener_returns_correct_chunk_chat_adapter_untokenized_stream
        streaming/test_streaming.py::test_stream_listener_returns_correct_chunk_json_adapter_untokenized_stream
        streaming/test_streaming.py::test_stream_listener_returns_correct_chunk_xml_adapter
        utils/test_saving.py::test_save_predict
        utils/test_saving.py::test_save_model_with_custom_signature
        utils/test_saving.py::test_load_with_version_mismatch
        utils/test_saving.py::test_pickle_loading_requires_explicit_permission""",
    "compares __dict__ of a copy: modules inside are compared by identity": """
        primitives/test_base_module.py::test_deepcopy_basic
        primitives/test_base_module.py::test_deepcopy_with_uncopyable_modules
        primitives/test_base_module.py::test_deepcopy_with_nested_modules""",
    "wants several completions of one call (n), which are a mixture's samples": """
        predict/test_predict.py::test_multi_output
        predict/test_predict.py::test_multi_output2""",
    "gives positional, unknown or missing inputs, on which a mixture is stricter or says it otherwise": """
        predict/test_predict.py::test_positional_arguments
        predict/test_predict.py::test_extra_fields_warning
        predict/test_predict.py::test_missing_required_input_field_still_warns""",
    "mocks an LM or a reply without the task's outputs, of which no proposal can be made": """
        predict/test_predict.py::test_predicted_outputs_piped_from_predict_to_lm_call
        adapters/test_chat_adapter.py::test_chat_adapter_quotes_literals_as_expected
        adapters/test_chat_adapter.py::test_chat_adapter_with_pydantic_models
        adapters/test_chat_adapter.py::test_chat_adapter_signature_information
        adapters/test_json_adapter.py::test_json_adapter_passes_structured_output_when_supported_by_model
        adapters/test_json_adapter.py::test_json_adapter_with_structured_outputs_does_not_mutate_original_signature
        adapters/test_two_step_adapter.py::test_two_step_adapter_call
        adapters/test_two_step_adapter.py::test_two_step_adapter_async_call""",
    "expects the error of the one predictor, which is the cause of TooFewProposals": """
        adapters/test_chat_adapter.py::test_null_content_raises_adapter_parse_error
        adapters/test_chat_adapter.py::test_empty_string_content_raises_adapter_parse_error
        adapters/test_chat_adapter.py::test_missing_required_output_field_still_raises
        adapters/test_chat_adapter.py::test_optional_type_syntax_missing_required_output_field_still_raises
        adapters/test_json_adapter.py::test_json_adapter_does_not_fallback_to_json_mode_on_structured_output_lm_error
        adapters/test_json_adapter.py::test_json_adapter_does_not_fallback_to_json_mode_on_structured_output_lm_error_async
        adapters/test_json_adapter.py::test_error_message_on_json_adapter_failure
        adapters/test_json_adapter.py::test_error_message_on_json_adapter_failure_async""",
    "reads a chain of thought's reasoning as an output: a proposer's is on its proposal": """
        predict/test_chain_of_thought.py::test_chain_of_thought_with_native_reasoning
        predict/test_chain_of_thought.py::test_chain_of_thought_with_manual_reasoning
        adapters/test_reasoning.py::test_reasoning_with_chain_of_thought
        callback/test_callback.py::test_callback_complex_module
        callback/test_callback.py::test_callback_async_module""",
}
OF_SEVERAL_CALLS = {
    "counts calls, tokens, predictors, trace steps or status messages: there are those of four agents": """
        predict/test_predict.py::test_call_predict_with_chat_history
        predict/test_predict.py::test_lm_usage
        predict/test_predict.py::test_lm_usage_with_parallel
        predict/test_predict.py::test_lm_usage_with_async
        primitives/test_base_module.py::test_usage_tracker_async_parallel
        primitives/test_module.py::test_predictors
        streaming/test_streaming.py::test_custom_status_streaming
        streaming/test_streaming.py::test_concurrent_status_message_providers
        adapters/test_json_adapter.py::test_json_adapter_not_using_structured_outputs_when_not_supported_by_model
        adapters/test_json_adapter.py::test_json_adapter_on_pydantic_model
        adapters/test_json_adapter.py::test_json_adapter_on_pydantic_model_async
        adapters/test_json_adapter.py::test_json_adapter_json_mode_no_structured_outputs
        adapters/test_json_adapter.py::test_json_adapter_json_mode_no_structured_outputs_async
        adapters/test_json_adapter.py::test_json_adapter_with_responses_api
        utils/test_settings.py::test_dspy_context_with_dspy_parallel
        utils/test_settings.py::test_dspy_context_with_async_task_group""",
    "scripts as many answers as an optimizer asks of one predictor": """
        teleprompt/test_copro_optimizer.py::test_optimization_and_output_verification""",
    "mocks streamed calls only: proposers that nobody listens to are asked without a stream": """
        streaming/test_streaming.py::test_streaming_handles_space_correctly
        streaming/test_streaming.py::test_stream_listener_missing_completion_marker_chat_adapter
        streaming/test_streaming.py::test_stream_listener_allow_reuse
        streaming/test_streaming.py::test_streaming_allows_custom_streamable_type
        streaming/test_streaming.py::test_streaming_with_citations
        streaming/test_streaming.py::test_chat_adapter_simple_pydantic_streaming
        streaming/test_streaming.py::test_chat_adapter_with_generic_type_annotation
        streaming/test_streaming.py::test_chat_adapter_nested_pydantic_streaming
        streaming/test_streaming.py::test_chat_adapter_mixed_fields_streaming
        streaming/test_streaming.py::test_json_adapter_simple_pydantic_streaming
        streaming/test_streaming.py::test_json_adapter_bracket_balance_detection
        streaming/test_streaming.py::test_json_adapter_multiple_fields_detection
        streaming/test_streaming.py::test_streaming_reasoning_model
        streaming/test_streaming.py::test_stream_listener_empty_last_chunk_chat_adapter
        streaming/test_streaming.py::test_stream_listener_empty_last_chunk_json_adapter
        streaming/test_streaming.py::test_streaming_reasoning_fallback""",
}


def reason_of(test: str, mode: str) -> str | None:
    """Why a test rightly fails with a stand-in of this mode; None if it should pass."""
    name = test.removeprefix("tests/").split("[")[0]
    reasons = {**OF_EVERY_MIXTURE, **({} if mode == "vote1" else OF_SEVERAL_CALLS)}
    return next((reason for reason, tests in reasons.items() if name in tests.split()), None)
