"""A GPT written from scratch in PyTorch: the public names, in the order of the book it follows.

Each name is imported from its module when it is first used, so `import llm_scratch` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# The public names of each module.
_NAMES = {
    # Chapter 2: text -> token ids -> training windows
    "tokenizers.simple": (
        "SimpleTokenizerV1 SimpleTokenizerV2 UnknownTokenError build_vocab split_words"
    ),
    "tokenizers.gpt2": "GPT2Tokenizer",
    "tokenizers.bpe": "BytePairTokenizer",
    "tokenizers.bpe_training": "train_by_hand",
    "tokenizers.bpe_files": "TokenizerFileError",
    "tokenizers.bpe_open": "open_tokenizer",
    "text.corpora": "fetch load_text",
    "text.windows": "GPTDatasetV1 TokenWindows create_dataloader_v1 split_text split_tokens",
    # Chapter 3: attention
    "model.attention": (
        "CausalAttention MultiHeadAttention MultiHeadAttentionWrapper SelfAttention_v1 "
        "SelfAttention_v2 attention_by_hand attention_weights causal_mask"
    ),
    # Chapter 4: the model, and generating text with it
    "model.config": "GPT2_CONFIGS GPT_CONFIG_124M ConfigError GPTConfig as_config gpt2_config",
    "model.layers": "GELU FeedForward LayerNorm gelu_by_hand layer_norm_by_hand",
    "model.cache": "KVCache",
    "model.gpt": "GPTModel TransformerBlock",
    "model.device": "pick_device",
    "generation.sampling": "next_probabilities sample_next",
    "generation.choosing": "SamplingSettings",
    "generation.decoding": "generate generate_text_simple stream",
    "generation.texts": "Generation TextStream generate_text",
    "generation.quantized": "quantize_int8",
    # Chapter 5: pretraining
    "tokenizers.any_tokenizer": "IncrementalDecoder text_to_token_ids token_ids_to_text",
    "training.losses": "calc_loss_batch calc_loss_loader",
    "training.evaluation": "evaluate_model generate_and_print_sample",
    "training.simple": "load_checkpoint save_checkpoint train_model_simple",
    "plotting.learning": "plot_losses plot_values",
    "tensor_files.errors": "WeightsError",
    "tensor_files.tensor_bundle": "TensorBundle",
    "weights.openai": (
        "assign download_and_load_gpt2 load_gpt2_params_from_tf_ckpt load_weights_into_gpt"
    ),
    "weights.gpt2_files": "fetch_gpt2 find_gpt2",
    "weights.gpt2": "load_gpt2",
    "weights.folder": "load_model save_model",
    "weights.export": "export_huggingface",
    "weights.gguf_export": "export_gguf",
    # One call that opens any model, with its tokenizer
    "opening": "OpenModel open_model",
    # Real open models: Llama, Qwen, SmolLM2, Mistral
    "model.llama_config": "LlamaConfig RopeScaling as_llama_config",
    "model.llama_sizes": (
        "LLAMA31_CONFIG_8B LLAMA32_CONFIG_1B LLAMA32_CONFIG_3B LLAMA3_CONFIG_8B QWEN3_CONFIG_14B "
        "QWEN3_CONFIG_1_7B QWEN3_CONFIG_30B_A3B QWEN3_CONFIG_32B QWEN3_CONFIG_4B QWEN3_CONFIG_8B "
        "QWEN_CONFIG_06_B"
    ),
    "model.llama_layers": (
        "ExpertsFeedForward GatedFeedForward RMSNorm rms_norm_by_hand swiglu_by_hand"
    ),
    "model.rope": "apply_rope rope_by_hand rope_tables",
    "model.grouped_attention": "GroupedQueryAttention window_mask",
    "model.llama": "Llama3Model LlamaBlock LlamaModel Qwen3Model",
    "weights.llama": "load_weights_into_llama load_weights_into_qwen",
    # Conversations: formats, data sets in other layouts, and which tokens a model learns from
    "conversations.messages": "ConversationError Message",
    "conversations.encoding": "EncodedConversation Segment encode_conversation encode_prompt",
    "conversations.layout": "ConversationFormat",
    "conversations.formats": "FORMATS find_format",
    "conversations.templates": "TemplateFormat",
    "weights.vocabulary": "add_tokens",
    "conversations.readers": "ReadConversations ReadSummary read_conversations",
    "conversations.writers": "write_conversations",
    "conversations.display": "show_conversation",
    "conversations.measuring": "ConversationLengths measure_conversations",
    # Chat: a conversation with a model that remembers it
    "chat.session": "ChatSession",
    "chat.replies": "Reply",
    "chat.saved": "read_chat",
    # Chapter 5 for real: token files, and a training loop that can be stopped and resumed
    "text.token_file": "TokenFile write_tokens",
    "text.token_parts": "TokenPart",
    "text.token_rows": "TokenRows",
    "text.token_header": "TokenFileError",
    "training.head_loss": "chunked_head_loss",
    "training.config": "TrainConfig",
    "training.objective": "Objective",
    "training.loop": "train",
    # Chapter 6: classification
    "finetuning.labelled_rows": (
        "create_balanced_dataset download_and_unzip_spam_data random_split read_sms"
    ),
    "finetuning.spam_classifier": (
        "SpamDataset calc_accuracy_loader classification_loss classify_review "
        "last_position_loss train_classifier_simple"
    ),
    "finetuning.labelled_texts": "ClassificationDataset",
    "finetuning.text_classifier": (
        "Classifier classify_texts evaluate_classifier finetune_classifier load_classifier "
        "replace_head save_classifier"
    ),
    "finetuning.scores": "class_scores confusion_matrix score_table",
    # Chapter 7: instructions
    "finetuning.prompts": "extract_response format_input format_input_phi",
    "finetuning.instructions": (
        "InstructionDataset InstructionDatasetPhi InstructionDatasetWithMasking "
        "custom_collate_draft_1 custom_collate_draft_2 custom_collate_fn "
        "custom_collate_with_masking_fn download_and_load_file load_instructions"
    ),
    "finetuning.instruction_rows": "show_mask",
    "text.packed_rows": "PackedRows",
    "finetuning.instruction_tuning": "answer finetune_instructions stopped_share",
    # Conversations: fine-tuning a model that answers and stops
    "finetuning.conversation_tuning": "answer_conversations finetune_conversations",
    "judging.judge": "exact_match token_f1",
    "judging.ollama": "check_if_running generate_model_scores query_model",
    # Chapter 7, bonus: preferences
    "finetuning.dpo_simple": (
        "PreferenceDataset compute_dpo_loss compute_dpo_loss_batch compute_dpo_loss_loader "
        "compute_logprobs evaluate_dpo_loss_loader preference_collate train_model_dpo_simple"
    ),
    "finetuning.preference_rows": "PreferenceRows measure_reference",
    "finetuning.dpo_training": (
        "PreferenceScore dpo_objective finetune_preferences preference_score"
    ),
    # Appendix D: warm-up, cosine decay, clipping
    "training.appendix_d": "find_highest_gradient train_model",
    # Appendix E: LoRA
    "lora.layers": (
        "LinearWithLoRA LinearWithLoRAMerged LoRALayer freeze merge_lora "
        "replace_linear_with_lora trainable_parameters unmerge_lora"
    ),
    "lora.saving": "save_adapter",
    "lora.loading": "adapter_base load_adapter",
    # Memory: what a run will need
    "memory.step": "TrainingStep",
    "memory.estimate": "Estimate estimate_memory",
    # Appendix A: the small network of the introduction to PyTorch
    "appendix_a": "NeuralNetwork ToyDataset compute_accuracy",
    # Beyond the book: the same checks for a reader's own code
    "selfcheck.run": "check",
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = list(_MODULE_OF)

if TYPE_CHECKING:  # the same names again, for type checkers and editors
    # isort: off
    # fmt: off
    from llm_scratch.tokenizers.simple import (
        SimpleTokenizerV1 as SimpleTokenizerV1, SimpleTokenizerV2 as SimpleTokenizerV2,
        UnknownTokenError as UnknownTokenError, build_vocab as build_vocab,
        split_words as split_words,
    )
    from llm_scratch.tokenizers.gpt2 import GPT2Tokenizer as GPT2Tokenizer
    from llm_scratch.tokenizers.bpe import BytePairTokenizer as BytePairTokenizer
    from llm_scratch.tokenizers.bpe_training import train_by_hand as train_by_hand
    from llm_scratch.tokenizers.bpe_files import TokenizerFileError as TokenizerFileError
    from llm_scratch.tokenizers.bpe_open import open_tokenizer as open_tokenizer
    from llm_scratch.text.corpora import fetch as fetch, load_text as load_text
    from llm_scratch.text.windows import (
        GPTDatasetV1 as GPTDatasetV1, TokenWindows as TokenWindows,
        create_dataloader_v1 as create_dataloader_v1, split_text as split_text,
        split_tokens as split_tokens,
    )
    from llm_scratch.model.attention import (
        CausalAttention as CausalAttention, MultiHeadAttention as MultiHeadAttention,
        MultiHeadAttentionWrapper as MultiHeadAttentionWrapper,
        SelfAttention_v1 as SelfAttention_v1, SelfAttention_v2 as SelfAttention_v2,
        attention_by_hand as attention_by_hand, attention_weights as attention_weights,
        causal_mask as causal_mask,
    )
    from llm_scratch.model.config import (
        GPT2_CONFIGS as GPT2_CONFIGS, GPT_CONFIG_124M as GPT_CONFIG_124M,
        ConfigError as ConfigError, GPTConfig as GPTConfig, as_config as as_config,
        gpt2_config as gpt2_config,
    )
    from llm_scratch.model.layers import (
        GELU as GELU, FeedForward as FeedForward, LayerNorm as LayerNorm,
        gelu_by_hand as gelu_by_hand, layer_norm_by_hand as layer_norm_by_hand,
    )
    from llm_scratch.model.cache import KVCache as KVCache
    from llm_scratch.model.gpt import GPTModel as GPTModel, TransformerBlock as TransformerBlock
    from llm_scratch.model.device import pick_device as pick_device
    from llm_scratch.generation.sampling import (
        next_probabilities as next_probabilities, sample_next as sample_next,
    )
    from llm_scratch.generation.choosing import SamplingSettings as SamplingSettings
    from llm_scratch.generation.decoding import (
        generate as generate, generate_text_simple as generate_text_simple, stream as stream,
    )
    from llm_scratch.generation.texts import (
        Generation as Generation, TextStream as TextStream, generate_text as generate_text,
    )
    from llm_scratch.generation.quantized import quantize_int8 as quantize_int8
    from llm_scratch.tokenizers.any_tokenizer import (
        IncrementalDecoder as IncrementalDecoder, text_to_token_ids as text_to_token_ids,
        token_ids_to_text as token_ids_to_text,
    )
    from llm_scratch.training.losses import (
        calc_loss_batch as calc_loss_batch, calc_loss_loader as calc_loss_loader,
    )
    from llm_scratch.training.evaluation import (
        evaluate_model as evaluate_model, generate_and_print_sample as generate_and_print_sample,
    )
    from llm_scratch.training.simple import (
        load_checkpoint as load_checkpoint, save_checkpoint as save_checkpoint,
        train_model_simple as train_model_simple,
    )
    from llm_scratch.opening import OpenModel as OpenModel, open_model as open_model
    from llm_scratch.model.llama_config import (
        LlamaConfig as LlamaConfig,
        RopeScaling as RopeScaling,
        as_llama_config as as_llama_config,
    )
    from llm_scratch.model.llama_sizes import (
        LLAMA31_CONFIG_8B as LLAMA31_CONFIG_8B,
        LLAMA32_CONFIG_1B as LLAMA32_CONFIG_1B,
        LLAMA32_CONFIG_3B as LLAMA32_CONFIG_3B,
        LLAMA3_CONFIG_8B as LLAMA3_CONFIG_8B,
        QWEN3_CONFIG_14B as QWEN3_CONFIG_14B,
        QWEN3_CONFIG_1_7B as QWEN3_CONFIG_1_7B,
        QWEN3_CONFIG_30B_A3B as QWEN3_CONFIG_30B_A3B,
        QWEN3_CONFIG_32B as QWEN3_CONFIG_32B,
        QWEN3_CONFIG_4B as QWEN3_CONFIG_4B,
        QWEN3_CONFIG_8B as QWEN3_CONFIG_8B,
        QWEN_CONFIG_06_B as QWEN_CONFIG_06_B,
    )
    from llm_scratch.model.llama_layers import (
        ExpertsFeedForward as ExpertsFeedForward,
        GatedFeedForward as GatedFeedForward,
        RMSNorm as RMSNorm,
        rms_norm_by_hand as rms_norm_by_hand,
        swiglu_by_hand as swiglu_by_hand,
    )
    from llm_scratch.model.rope import (
        apply_rope as apply_rope,
        rope_by_hand as rope_by_hand,
        rope_tables as rope_tables,
    )
    from llm_scratch.model.grouped_attention import (
        GroupedQueryAttention as GroupedQueryAttention,
        window_mask as window_mask,
    )
    from llm_scratch.model.llama import (
        Llama3Model as Llama3Model,
        LlamaBlock as LlamaBlock,
        LlamaModel as LlamaModel,
        Qwen3Model as Qwen3Model,
    )
    from llm_scratch.weights.llama import (
        load_weights_into_llama as load_weights_into_llama,
        load_weights_into_qwen as load_weights_into_qwen,
    )
    from llm_scratch.conversations.messages import (
        ConversationError as ConversationError, Message as Message,
    )
    from llm_scratch.conversations.readers import (
        ReadConversations as ReadConversations, ReadSummary as ReadSummary,
        read_conversations as read_conversations,
    )
    from llm_scratch.conversations.writers import write_conversations as write_conversations
    from llm_scratch.conversations.display import show_conversation as show_conversation
    from llm_scratch.conversations.measuring import (
        ConversationLengths as ConversationLengths,
        measure_conversations as measure_conversations,
    )
    from llm_scratch.conversations.encoding import (
        EncodedConversation as EncodedConversation, Segment as Segment,
        encode_conversation as encode_conversation, encode_prompt as encode_prompt,
    )
    from llm_scratch.conversations.layout import ConversationFormat as ConversationFormat
    from llm_scratch.conversations.formats import FORMATS as FORMATS, find_format as find_format
    from llm_scratch.conversations.templates import TemplateFormat as TemplateFormat
    from llm_scratch.weights.vocabulary import add_tokens as add_tokens
    from llm_scratch.plotting.learning import (
        plot_losses as plot_losses, plot_values as plot_values,
    )
    from llm_scratch.tensor_files.errors import WeightsError as WeightsError
    from llm_scratch.tensor_files.tensor_bundle import TensorBundle as TensorBundle
    from llm_scratch.weights.openai import (
        assign as assign, download_and_load_gpt2 as download_and_load_gpt2,
        load_gpt2_params_from_tf_ckpt as load_gpt2_params_from_tf_ckpt,
        load_weights_into_gpt as load_weights_into_gpt,
    )
    from llm_scratch.weights.gpt2_files import fetch_gpt2 as fetch_gpt2, find_gpt2 as find_gpt2
    from llm_scratch.weights.gpt2 import load_gpt2 as load_gpt2
    from llm_scratch.weights.folder import load_model as load_model, save_model as save_model
    from llm_scratch.weights.export import export_huggingface as export_huggingface
    from llm_scratch.weights.gguf_export import export_gguf as export_gguf
    from llm_scratch.text.token_file import TokenFile as TokenFile, write_tokens as write_tokens
    from llm_scratch.text.token_parts import TokenPart as TokenPart
    from llm_scratch.text.token_rows import TokenRows as TokenRows
    from llm_scratch.text.token_header import TokenFileError as TokenFileError
    from llm_scratch.training.head_loss import chunked_head_loss as chunked_head_loss
    from llm_scratch.training.config import TrainConfig as TrainConfig
    from llm_scratch.training.objective import Objective as Objective
    from llm_scratch.training.loop import train as train
    from llm_scratch.finetuning.labelled_rows import (
        create_balanced_dataset as create_balanced_dataset,
        download_and_unzip_spam_data as download_and_unzip_spam_data,
        random_split as random_split, read_sms as read_sms,
    )
    from llm_scratch.finetuning.spam_classifier import (
        SpamDataset as SpamDataset, calc_accuracy_loader as calc_accuracy_loader,
        classification_loss as classification_loss, classify_review as classify_review,
        last_position_loss as last_position_loss,
        train_classifier_simple as train_classifier_simple,
    )
    from llm_scratch.finetuning.labelled_texts import ClassificationDataset as ClassificationDataset
    from llm_scratch.finetuning.text_classifier import (
        Classifier as Classifier, classify_texts as classify_texts,
        evaluate_classifier as evaluate_classifier, finetune_classifier as finetune_classifier,
        load_classifier as load_classifier, replace_head as replace_head,
        save_classifier as save_classifier,
    )
    from llm_scratch.finetuning.scores import (
        class_scores as class_scores, confusion_matrix as confusion_matrix,
        score_table as score_table,
    )
    from llm_scratch.finetuning.prompts import (
        extract_response as extract_response, format_input as format_input,
        format_input_phi as format_input_phi,
    )
    from llm_scratch.finetuning.instructions import (
        InstructionDataset as InstructionDataset, InstructionDatasetPhi as InstructionDatasetPhi,
        InstructionDatasetWithMasking as InstructionDatasetWithMasking,
        custom_collate_draft_1 as custom_collate_draft_1,
        custom_collate_draft_2 as custom_collate_draft_2, custom_collate_fn as custom_collate_fn,
        custom_collate_with_masking_fn as custom_collate_with_masking_fn,
        download_and_load_file as download_and_load_file, load_instructions as load_instructions,
    )
    from llm_scratch.finetuning.instruction_rows import show_mask as show_mask
    from llm_scratch.text.packed_rows import PackedRows as PackedRows
    from llm_scratch.finetuning.instruction_tuning import (
        answer as answer, finetune_instructions as finetune_instructions,
        stopped_share as stopped_share,
    )
    from llm_scratch.finetuning.conversation_tuning import (
        answer_conversations as answer_conversations,
        finetune_conversations as finetune_conversations)
    from llm_scratch.judging.judge import exact_match as exact_match, token_f1 as token_f1
    from llm_scratch.judging.ollama import (
        check_if_running as check_if_running, generate_model_scores as generate_model_scores,
        query_model as query_model)
    from llm_scratch.finetuning.dpo_simple import (
        PreferenceDataset as PreferenceDataset, compute_dpo_loss as compute_dpo_loss,
        compute_dpo_loss_batch as compute_dpo_loss_batch,
        compute_dpo_loss_loader as compute_dpo_loss_loader, compute_logprobs as compute_logprobs,
        evaluate_dpo_loss_loader as evaluate_dpo_loss_loader,
        preference_collate as preference_collate,
        train_model_dpo_simple as train_model_dpo_simple)
    from llm_scratch.finetuning.preference_rows import (
        PreferenceRows as PreferenceRows, measure_reference as measure_reference)
    from llm_scratch.finetuning.dpo_training import (
        PreferenceScore as PreferenceScore, dpo_objective as dpo_objective,
        finetune_preferences as finetune_preferences, preference_score as preference_score)
    from llm_scratch.training.appendix_d import (
        find_highest_gradient as find_highest_gradient, train_model as train_model)
    from llm_scratch.lora.layers import (
        LinearWithLoRA as LinearWithLoRA, LinearWithLoRAMerged as LinearWithLoRAMerged,
        LoRALayer as LoRALayer, freeze as freeze, merge_lora as merge_lora,
        replace_linear_with_lora as replace_linear_with_lora,
        trainable_parameters as trainable_parameters, unmerge_lora as unmerge_lora)
    from llm_scratch.lora.saving import save_adapter as save_adapter
    from llm_scratch.lora.loading import adapter_base as adapter_base, load_adapter as load_adapter
    from llm_scratch.appendix_a import (
        NeuralNetwork as NeuralNetwork, ToyDataset as ToyDataset,
        compute_accuracy as compute_accuracy)
    from llm_scratch.chat.session import ChatSession as ChatSession
    from llm_scratch.chat.replies import Reply as Reply
    from llm_scratch.chat.saved import read_chat as read_chat
    from llm_scratch.memory.step import TrainingStep as TrainingStep
    from llm_scratch.memory.estimate import Estimate as Estimate, estimate_memory as estimate_memory
    from llm_scratch.selfcheck.run import check as check
    # fmt: on
    # isort: on


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = found  # the next lookup finds it directly
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
