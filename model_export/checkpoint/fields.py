"""What becomes of each field of a checkpoint's files: it is honoured, refused, or ignored for a reason.

The table is in docs/checkpoint-fields.md. Fields that are not in it are reported, so that none is lost without a word.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Treatment = Literal["honoured", "refused", "ignored"]


@dataclass(frozen=True, slots=True)
class Row:
    """Fields of one file that are treated alike; a field within another is written with a dot."""

    file: str
    fields: str
    treatment: Treatment
    why: str


_CONFIG: Final = "config.json"
_SETTINGS: Final = "tokenizer_config.json"
_TOKENIZER: Final = "tokenizer.json"
_MODULE: Final = "sentence_bert_config.json"
_SENTENCE: Final = "config_sentence_transformers.json"

ROWS: Final = (
    Row(_CONFIG, "model_type architectures", "honoured", "the family, and the task unless `--task` names one"),
    Row(
        _CONFIG,
        "vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size hidden_act layer_norm_eps "
        "max_position_embeddings type_vocab_size tie_word_embeddings embedding_size dim n_layers n_heads hidden_dim activation",
        "honoured",
        "the network; sizes are held against the tensors",
    ),
    Row(_CONFIG, "pad_token_id", "honoured", "the position of the first token, in RoBERTa's family"),
    Row(_CONFIG, "id2label num_labels problem_type", "honoured", "names of labels, and what makes scores of logits"),
    Row(_CONFIG, "label2id", "honoured", "which label means entailment, for zero-shot; names are those of `id2label`"),
    Row(_CONFIG, "tokenizer_class", "honoured", "the tokenizer's class if tokenizer_config.json names none"),
    Row(_CONFIG, "transformers_version", "honoured", "which of two tokenizers the model was trained with"),
    Row(
        _CONFIG,
        "sentence_transformers sbert_ce_default_activation_function",
        "honoured",
        "that it is a CrossEncoder, and how its scores are made",
    ),
    Row(
        _CONFIG,
        "position_embedding_type is_decoder add_cross_attention pruned_heads quantization_config auto_map",
        "refused",
        "another network than the graph, unless it is `absolute`, false or empty",
    ),
    Row(
        _CONFIG,
        "hidden_dropout_prob attention_probs_dropout_prob classifier_dropout dropout attention_dropout qa_dropout "
        "seq_classif_dropout initializer_range initializer_factor sinusoidal_pos_embds gradient_checkpointing finetuning_task "
        "tf_legacy_loss summary_type summary_use_proj summary_activation summary_last_dropout",
        "ignored",
        "for training",
    ),
    Row(
        _CONFIG,
        "dtype torch_dtype use_bfloat16 use_cache return_dict output_hidden_states output_attentions output_past torchscript "
        "chunk_size_feed_forward attn_implementation _attn_implementation_autoset",
        "ignored",
        "how a library computes; the answers are the same",
    ),
    Row(
        _CONFIG,
        "bos_token_id eos_token_id sep_token_id cls_token_id mask_token_id",
        "ignored",
        "the tokenizer has its own special tokens",
    ),
    Row(
        _CONFIG,
        "is_encoder_decoder tie_encoder_decoder cross_attention_hidden_size decoder_start_token_id max_length min_length "
        "do_sample early_stopping num_beams num_beam_groups diversity_penalty temperature top_k top_p typical_p "
        "repetition_penalty length_penalty no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids "
        "num_return_sequences output_scores return_dict_in_generate forced_bos_token_id forced_eos_token_id "
        "remove_invalid_values exponential_decay_length_penalty suppress_tokens begin_suppress_tokens prefix",
        "ignored",
        "for generating text",
    ),
    Row(
        _CONFIG,
        "directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head pooler_type",
        "ignored",
        "notes of BERT's first release, which no network reads",
    ),
    Row(_CONFIG, "_name_or_path _num_labels _commit_hash tie_weights_ language", "ignored", "notes of a library"),
    Row(
        _CONFIG,
        "task_specific_params function_to_apply",
        "ignored",
        "defaults of single pipelines; a request says `function_to_apply` itself",
    ),
    Row(_SETTINGS, "tokenizer_class", "honoured", "the class, see [which tokenizer](export.md#which-tokenizer)"),
    Row(_SETTINGS, "backend", "honoured", "that transformers 5 saved the tokenizer"),
    Row(
        _SETTINGS,
        "do_lower_case strip_accents tokenize_chinese_chars add_prefix_space trim_offsets",
        "honoured",
        "go before what tokenizer.json says, if the class has them",
    ),
    Row(
        _SETTINGS, "model_max_length max_len", "honoured", "the maximum length, unless sentence-transformers names one"
    ),
    Row(_SETTINGS, "truncation_side", "honoured", "the end that is cut off, unless a request says"),
    Row(
        _SETTINGS, "split_special_tokens", "honoured", "special tokens within a text are text; refused for `fill-mask`"
    ),
    Row(_SETTINGS, "model_input_names", "honoured", "whether token types are passed to the model"),
    Row(
        _SETTINGS,
        "clean_up_tokenization_spaces clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output",
        "honoured",
        "spaces of `sequence` in answers of `fill-mask`",
    ),
    Row(
        _SETTINGS,
        "pad_token unk_token mask_token cls_token sep_token bos_token eos_token additional_special_tokens "
        "extra_special_tokens added_tokens_decoder",
        "honoured",
        "special and added tokens",
    ),
    Row(
        _SETTINGS,
        "auto_map",
        "refused",
        "code of the checkpoint's own is never run; `--tokenizer file` takes tokenizer.json",
    ),
    Row(_SETTINGS, "fast_tokenizer_files", "refused", "if it names another file than tokenizer.json"),
    Row(
        _SETTINGS,
        "padding_side",
        "ignored",
        "nothing is padded; `left` is refused for `answer`, whose texts it would swap",
    ),
    Row(
        _SETTINGS,
        "pad_token_type_id pad_to_multiple_of padding pad_type max_length stride truncation truncation_strategy "
        "truncate_to_max_length",
        "ignored",
        "nothing is padded, and texts are cut as the task and the request say",
    ),
    Row(
        _SETTINGS,
        "do_basic_tokenize never_split wordpieces_prefix clean_text errors legacy sp_model_kwargs use_fast add_bos_token add_eos_token "
        "do_word_tokenize subword_tokenizer_type word_tokenizer_type mecab_kwargs",
        "ignored",
        "for tokenizers in Python, which are refused",
    ),
    Row(
        _SETTINGS,
        "name_or_path special_tokens_map_file tokenizer_file vocab_file merges_file from_slow is_local local_files_only verbose "
        "processor_class chat_template trust_remote_code device_map init_inputs _commit_hash full_tokenizer_file",
        "ignored",
        "notes of a library",
    ),
    Row(
        "special_tokens_map.json",
        "pad_token unk_token mask_token cls_token sep_token bos_token eos_token additional_special_tokens",
        "honoured",
        "if tokenizer_config.json has no `added_tokens_decoder`",
    ),
    Row("added_tokens.json", "(each token)", "honoured", "if tokenizer_config.json has no `added_tokens_decoder`"),
    Row(
        _TOKENIZER,
        "added_tokens normalizer pre_tokenizer post_processor decoder model",
        "honoured",
        "unless the class is taken, see [which tokenizer](export.md#which-tokenizer)",
    ),
    Row(_TOKENIZER, "truncation.direction", "honoured", "unless tokenizer_config.json has a `truncation_side`"),
    Row(
        _TOKENIZER,
        "truncation.max_length truncation.stride truncation.strategy",
        "ignored",
        "of the last call before it was saved; transformers sets them in each call",
    ),
    Row(_TOKENIZER, "padding", "ignored", "nothing is padded"),
    Row(_TOKENIZER, "model.dropout", "ignored", "for training: it makes tokens random"),
    Row(_TOKENIZER, "version", "ignored", "the library reads it"),
    Row("modules.json", "type path", "honoured", "the modules, in this order; others are refused"),
    Row("modules.json", "idx name kwargs", "ignored", "names within the library"),
    Row(_MODULE, "max_seq_length", "honoured", "goes before the tokenizer's maximum length"),
    Row(_MODULE, "do_lower_case", "honoured", "refused if the tokenizer does not do it"),
    Row(
        _MODULE,
        "tokenizer_args processor_kwargs model_args model_kwargs config_args config_kwargs",
        "refused",
        "but for `model_max_length`, which is honoured, and for what changes no answer",
    ),
    Row(
        _MODULE,
        "transformer_task modality_config module_output_name processing_kwargs query_length document_length query_expansion",
        "refused",
        "unless they are those of plain texts",
    ),
    Row(_MODULE, "unpad_inputs", "ignored", "how the library computes"),
    Row(_SENTENCE, "__version__", "honoured", "whether whitespace around texts is removed"),
    Row(_SENTENCE, "model_type", "honoured", "that it is a CrossEncoder"),
    Row(_SENTENCE, "activation_fn", "honoured", "of a CrossEncoder: Identity or Sigmoid; others are refused"),
    Row(_SENTENCE, "prompts default_prompt_name", "honoured", "a default prompt of a CrossEncoder is refused"),
    Row(_SENTENCE, "truncate_dim", "honoured", "how many numbers an embedding has if a request does not say"),
    Row(_SENTENCE, "similarity_fn_name", "ignored", "`/v1/similarity` answers cosines"),
    Row(_SENTENCE, "requirements", "ignored", "of the library"),
    Row(
        "1_Pooling/config.json",
        "pooling_mode pooling_mode_mean_tokens pooling_mode_cls_token",
        "honoured",
        "unless `--pooling` names one",
    ),
    Row(
        "1_Pooling/config.json",
        "pooling_mode_max_tokens pooling_mode_mean_sqrt_len_tokens pooling_mode_weightedmean_tokens pooling_mode_lasttoken "
        "include_prompt",
        "refused",
        "unless they are off; `include_prompt` unless it is true",
    ),
    Row(
        "1_Pooling/config.json", "word_embedding_dimension embedding_dimension", "ignored", "the tensors have the size"
    ),
    Row(
        "2_Dense/config.json",
        "activation_function bias",
        "honoured",
        "Identity, Tanh, ReLU or GELU; others are refused",
    ),
    Row("2_Dense/config.json", "use_residual", "refused", "if true"),
    Row("2_Dense/config.json", "module_input_name module_output_name", "refused", "unless they are the embedding"),
    Row("2_Dense/config.json", "in_features out_features", "ignored", "the tensors have the sizes"),
    Row("2_Normalize/config.json", "module_input_name module_output_name", "refused", "unless they are the embedding"),
)


def unknown_fields(file: str, fields: Iterable[str]) -> list[str]:
    """Return those of the fields of a file that the table does not have, sorted."""
    known = {name.partition(".")[0] for row in ROWS if row.file == file for name in row.fields.split()}
    return sorted(set(fields) - known)


def as_markdown() -> str:
    """Return the table as it stands in the docs."""
    lines = ["| file | field | what becomes of it | |", "|---|---|---|---|"]
    for row in ROWS:
        names = ", ".join(f"`{name}`" for name in row.fields.split()) if row.fields[0] != "(" else row.fields
        lines.append(f"| {row.file} | {names} | {row.treatment} | {row.why} |")
    return "\n".join(lines) + "\n"
