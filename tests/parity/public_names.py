"""The Python hub's public names as this package offers them, for test_public_names.py.

A signature is written as in Python, without `self`. `...` is any default. What follows the hub's parameters here is ours and
must have defaults.
"""

from __future__ import annotations

from typing import Dict, List, Tuple

HUB = "sparse_attention_hub"
ATTENTION = HUB + ".sparse_attention"
UTILS = ATTENTION + ".utils"
RESEARCH = ATTENTION + ".research_attention"
EFFICIENT = ATTENTION + ".efficient_attention"
MASKERS = RESEARCH + ".maskers"
FIXED = MASKERS + ".fixed.implementations"
SAMPLING = MASKERS + ".sampling.implementations"
ADAPTERS = HUB + ".adapters"
SERVERS = ADAPTERS + ".model_servers"

_ADAPTER_NAMES = (
    "Request RequestResponse ModelHubAdapterInterface SparseAttentionAdapterInterface ModelAdapter ModelAdapterHF"
).split()
_SERVER_ERRORS = (
    "ModelServerConfig ModelServerError ModelCreationError TokenizerCreationError ReferenceCountError ResourceCleanupError "
    "cleanup_gpu_memory"
).split()
_FIXED_MASKERS = (
    "LocalMasker CausalMasker SinkMasker OracleTopK OracleTopPMasker PQCache HashAttentionTopKMasker "
    "DoubleSparsityTopKMasker LocalMaskerConfig SinkMaskerConfig OracleTopKConfig OracleTopPMaskerConfig PQCacheConfig "
    "HashAttentionTopKMaskerConfig DoubleSparsityTopKMaskerConfig"
).split()
_EFFICIENT_NAMES = "DoubleSparsity HashAttention DoubleSparsityConfig HashAttentionConfig ChannelConfig".split()
# The hub exports these from their own packages only.
_ALSO_HERE = (
    "QuestTopKMasker QuestTopKMaskerConfig SocketMasker SocketMaskerConfig OracleTopPMasker OracleTopPMaskerConfig "
    "AdaptiveSamplingMasker AdaptiveSamplingMaskerConfig"
).split()
_SAMPLERS = "AdaptiveSamplingMasker AdaptiveSamplingMaskerConfig RandomSamplingMasker RandomSamplingMaskerConfig MagicPig MagicPigConfig".split()

#: Package -> what it exports.
EXPORTS: Dict[str, List[str]] = {
    HUB: "SparseAttention EfficientAttention ResearchAttention MicroMetricLogger PlotGenerator Granularity".split()
    + _ADAPTER_NAMES
    + _ALSO_HERE,
    ADAPTERS: [*_ADAPTER_NAMES, "ModelServer", "ModelServerHF", "ModelEntry", "TokenizerEntry", *_SERVER_ERRORS],
    SERVERS: "ModelServer ModelEntry TokenizerEntry ModelServerHF".split(),
    ADAPTERS + ".utils": [*_SERVER_ERRORS, "generate_model_key", "generate_tokenizer_key", "hash_kwargs"],
    HUB + ".metric_logging": ["MicroMetricLogger", "LogEvent"],
    HUB + ".plotting": ["PlotGenerator", "Granularity"],
    ATTENTION: [
        *"SparseAttention SparseAttentionConfig EfficientAttention EfficientAttentionConfig ResearchAttention".split(),
        *"ResearchAttentionConfig ResearchMasker SamplingMasker FixedMasker TopKMasker TopKMaskerConfig TopPMasker".split(),
        *"LocalMasker LocalMaskerConfig CausalMasker SinkMasker SinkMaskerConfig PQCache OracleTopK".split(),
        *"HashAttentionTopKMasker DoubleSparsityTopKMasker RandomSamplingMasker MagicPig SparseAttentionMetadata".split(),
        *"Mask DoubleSparsityTopKMaskerConfig HashAttentionTopKMaskerConfig".split(),
        *_EFFICIENT_NAMES,
        *_ALSO_HERE,
    ],
    EFFICIENT: ["EfficientAttention", "EfficientAttentionConfig"],
    EFFICIENT + ".implementations": _EFFICIENT_NAMES,
    RESEARCH: ["ResearchAttention", "ResearchAttentionConfig"],
    MASKERS: ["ResearchMasker", "MaskerConfig"],
    MASKERS + ".fixed": [
        *"FixedMasker TopKMasker TopPMasker FixedMaskerConfig TopKMaskerConfig TopPMaskerConfig".split(),
        *_FIXED_MASKERS,
        *"QuestTopKMasker QuestTopKMaskerConfig SocketMasker SocketMaskerConfig".split(),
    ],
    FIXED: [*_FIXED_MASKERS, *"QuestTopKMasker QuestTopKMaskerConfig SocketMasker SocketMaskerConfig".split()],
    FIXED + ".utils": ["load_sorted_channels_from_file", "extract_layer_channels", "validate_channel_data"],
    MASKERS + ".sampling": ["SamplingMasker", "SamplingMaskerConfig", *_SAMPLERS],
    SAMPLING: _SAMPLERS,
    UTILS: ["Mask"],
}

_ROW_WISE = "shape, row_wise_idx, data, mask_type, dtype, use_padding=False"
_ADD_MASK = (
    "add_mask(keys, queries, values, attention_mask, scaling, dropout, sparse_meta_data, previous_mask, **kwargs)"
)
_ATTEND = "custom_attention(module, queries, keys, values, attention_mask, scaling, dropout, **kwargs)"
_MASKER = [_ADD_MASK, "create_from_config(config)"]
_ENGINE = [_ATTEND, "create_from_config(config)"]
_LOCAL = "tensor_dims, effective_window_size, keys, previous_mask"
_SINK = "tensor_dims, effective_sink_size, keys, previous_mask"
_TOP = "tensor_dims, effective_heavy_size, keys, queries, attention_mask, previous_mask"
_FULL = "_should_use_full_attention(dims, heavy_size)"
_VALIDATE = "_validate_inputs(sparse_meta_data, kwargs)"
_OF_LAYER = "keys, sparse_meta_data, layer_idx"
_STEP = "queries, keys, attention_mask, scaling"

#: Module -> class with its constructor -> methods.
CLASSES: Dict[str, Dict[str, List[str]]] = {
    UTILS + ".mask": {
        "Mask(shape, dtype, device, mask=None, indices=None, ptr=None, data=None, from_dense_mask=False, from_index=False, "
        "is_full=False, is_empty=False)": [
            "create_empty_mask(shape, dtype, device)",
            "create_full_mask(shape, dtype, device)",
            "create_mask_from_indices(shape, indices, ptr, data, dtype)",
            "create_mask_from_dense_mask(shape, mask, dtype)",
            f"create_from_row_wise_idx({_ROW_WISE}, mode='dense')",
            f"create_from_row_wise_idx_dense({_ROW_WISE})",
            f"create_from_row_wise_idx_sparse({_ROW_WISE})",
            "is_full_mask()",
            "is_empty_mask()",
            "get_dense_mask()",
            "get_index_mask()",
            "apply_mask(input_tensor, mode='dense')",
            "apply_mask_dense(input_tensor)",
            "apply_mask_sparse(input_tensor)",
            "apply_inv_mask(input_tensor, mode='dense')",
            "apply_inv_mask_dense(input_tensor)",
            "apply_inv_mask_sparse(input_tensor)",
            "merge_mask(other_mask, inplace, mode='dense')",
            "merge_mask_dense(other_mask, inplace)",
            "merge_mask_sparse(other_mask, inplace)",
            "get_density()",
        ]
    },
    ATTENTION + ".base": {
        "SparseAttentionConfig()": [],
        "SparseAttention(sparse_attention_config)": [*_ENGINE, "pre_attention_hook_generator()"],
    },
    ATTENTION + ".metadata": {"SparseAttentionMetadata()": []},
    RESEARCH + ".base": {
        "ResearchAttentionConfig(masker_configs)": [],
        "ResearchAttention(sparse_attention_config, maskers)": _ENGINE,
    },
    EFFICIENT + ".base": {
        "EfficientAttentionConfig()": [],
        "EfficientAttention(sparse_attention_config)": _ENGINE,
    },
    EFFICIENT + ".implementations.double_sparsity": {
        "ChannelConfig()": [],
        "DoubleSparsityConfig(heavy_size, sink_size, local_size, ds_channel_config, ds_bits, ds_group_factor)": [],
        "DoubleSparsity(sparse_attention_config, group_factor, label_bits, channel_config)": _ENGINE,
    },
    EFFICIENT + ".implementations.hash_attention": {
        "HashAttentionConfig(heavy_size, sink_size, local_size, hat_weights, hat_bits, hat_mlp_layers, "
        "hat_mlp_hidden_size)": [],
        "HashAttention(sparse_attention_config, hat_bits, hat_mlp_layers, hat_mlp_hidden_size, hat_weights)": _ENGINE,
    },
    MASKERS + ".base": {
        "MaskerConfig()": [],
        "AttentionTensorDimensions(batch_size, num_heads, seq_len_queries, seq_len_keys)": [],
        "MaskerRegistry()": [
            "register(config_type)",
            "get_masker_class(config_type)",
            "get_all_registered_types()",
            "create_masker(config)",
        ],
        "ResearchMasker(config)": [
            *_MASKER,
            "create_masker_from_config(config)",
            "_extract_tensor_dimensions(keys, queries)",
            "_create_full_mask(dims, dtype, device)",
            "_create_mask_from_rowise_indices(dims, indices, device, dtype)",
            "_calculate_effective_size(size_param, seq_len_keys)",
        ],
    },
    MASKERS + ".fixed.base": {
        "FixedMaskerConfig()": [],
        "FixedMasker(config)": _MASKER,
        "TopKMaskerConfig(heavy_size)": [],
        "TopKMasker(config)": [
            *_MASKER,
            "_get_topk_indices_from_inactive_positions(scores, previous_mask, k)",
        ],
        "TopPMaskerConfig(top_p)": [],
        "TopPMasker(config)": _MASKER,
    },
    FIXED + ".basic_fixed": {
        "LocalMaskerConfig(window_size, search_space={})": [],
        "LocalMasker(config)": [
            *_MASKER,
            "update_core(dense_mask, effective_window_size)",
            "update_core_broadcast(dense_mask, effective_window_size)",
            f"get_updated_mask_1({_LOCAL})",
            f"get_updated_mask_2({_LOCAL})",
            f"get_updated_mask_3({_LOCAL})",
            f"get_updated_mask({_LOCAL}, mode='dense2')",
            "_calculate_effective_window_size(seq_len_keys)",
            "_should_use_full_attention(dims, window_size)",
        ],
        "CausalMasker(config)": _MASKER,
        "SinkMaskerConfig(sink_size, search_space={})": [],
        "SinkMasker(config)": [
            *_MASKER,
            f"get_updated_mask_sparse({_SINK})",
            f"get_updated_mask_dense({_SINK})",
            f"get_updated_mask({_SINK}, mode='dense')",
            "_calculate_effective_sink_size(seq_len_keys)",
            "_should_use_full_attention(dims, sink_size)",
        ],
    },
    FIXED + ".oracle_top_k": {
        "OracleTopKConfig(heavy_size, search_space=...)": [],
        "OracleTopK(config)": [
            *_MASKER,
            "update_core(queries, keys, previous_dense_mask, effective_heavy_size, MIN_VALUE, attention_mask)",
            f"get_updated_mask_old({_TOP})",
            f"get_updated_mask_new({_TOP})",
            f"get_updated_mask({_TOP}, mode='new')",
            "_calculate_effective_heavy_size(seq_len_keys)",
            _FULL,
        ],
    },
    FIXED + ".oracle_top_p": {
        "OracleTopPMaskerConfig(top_p, search_space=...)": [],
        "OracleTopPMasker(config)": [
            *_MASKER,
            "_should_use_full_attention(dims)",
            "_compute_exp_attention_scores(keys, queries, previous_dense_mask, attention_mask, scaling)",
            "_compute_top_p_thresholds(scores, top_p)",
            "_compute_attention_scores(keys, queries)",
        ],
    },
    FIXED + ".hashattention_top_k": {
        "HashAttentionTopKMaskerConfig(heavy_size, hat_bits, hat_mlp_layers, hat_mlp_hidden_size, hat_mlp_activation, "
        "hat_weights=None, hat_weight_file=None, search_space=...)": [],
        "HashAttentionTopKMasker(config)": [
            *_MASKER,
            _VALIDATE,
            "_calculate_effective_heavy_size(seq_len_keys)",
            _FULL,
            "_get_signatures(input_tensor, matrix_list, bias_list)",
            f"_update_key_signatures({_OF_LAYER}, **kwargs)",
            f"_determine_new_keys({_OF_LAYER})",
            "_compute_hashattention_score(queries, keys, attention_mask, previous_dense_mask, sparse_meta_data, layer_idx, "
            "**kwargs)",
        ],
    },
    FIXED + ".double_sparsity_top_k": {
        "DoubleSparsityTopKMaskerConfig(heavy_size, sorted_channel_file, group_factor=16, label_bits=4, "
        "channel_selection='qk_proj', search_space={})": [],
        "DoubleSparsityTopKMasker(config)": [*_MASKER, "_ensure_sorted_channel_is_loaded(layer_idx, device)", _FULL],
    },
    FIXED + ".pq_top_k": {
        "PQCacheConfig(heavy_size, pq_group_factor, pq_bits, kmeans_iter, init_offset, metric)": [],
        "PQCache(config)": [
            *_MASKER,
            _VALIDATE,
            _FULL,
            "_initialize_pq_cache(sparse_meta_data, layer_idx)",
            "_perform_kmeans_clustering(keys, layer_idx, sparse_meta_data)",
            "_handle_incremental_keys(keys, layer_idx, sparse_meta_data)",
            f"_determine_new_keys({_OF_LAYER})",
            "_quantize_new_keys(new_keys, centroids, layer_idx, sparse_meta_data)",
            "_compute_pq_scores(queries, keys, centroids, codebook)",
            "_create_pq_mask(dims, scores, effective_heavy_size, previous_mask, device)",
        ],
    },
    FIXED + ".quest_top_k": {
        "QuestTopKMaskerConfig(heavy_size, page_size, label_bits=16, search_space=...)": [],
        "QuestTopKMasker(config)": [*_MASKER, "_should_use_full_attention(dims, heavy_tokens)"],
    },
    FIXED + ".socket_top_k": {
        "SocketMaskerConfig(heavy_size, K=4, L=1, tau=0.3)": [],
        "SocketMasker(config)": _MASKER,
    },
    MASKERS + ".sampling.base": {"SamplingMaskerConfig()": [], "SamplingMasker(config)": _MASKER},
    SAMPLING + ".random_sampling": {
        "RandomSamplingMaskerConfig(sampling_rate, search_space={})": [],
        "RandomSamplingMasker(config)": _MASKER,
    },
    SAMPLING + ".adaptive_sampling": {
        "AdaptiveSamplingMaskerConfig(base_rate_sampling, epsilon, delta, init_offset, local_offset, search_space=...)": [],
        "AdaptiveSamplingMasker(config)": [
            *_MASKER,
            "_compute_exp_attention_scores(queries, keys, scaling, attention_mask)",
            "should_return_full_mask(sampling_range)",
            "_get_sampling_range(seq_len_keys)",
            "_get_base_sample_count(sampling_range)",
            "_get_std_estimate_using_base_sample(expwts, batch_size, num_heads, seq_len_queries, seq_len_keys, start_idx, "
            "end_idx, num_base_samples, dtype)",
            "_compute_adaptive_budget(std_estimate, estimated_denominator, sampling_range)",
        ],
    },
    SAMPLING + ".magic_pig": {
        "MagicPigConfig(lsh_l, lsh_k, center=True, packing='int64', seed=42, search_space=...)": [],
        "MagicPig(config)": [
            *_MASKER,
            _VALIDATE,
            "_pack_bits(signatures)",
            "_compute_signatures(vectors, sparse_meta_data, layer_idx)",
            "_center_KQ(keys, queries, sparse_meta_data, layer_idx)",
            f"_determine_new_keys({_OF_LAYER})",
            f"_update_key_signatures({_OF_LAYER})",
            "_transform_for_mips(keys, queries)",
            "_compute_probabilities(keys_transformed, queries_transformed)",
            "_compute_matches_float32(keys_signatures, queries_signatures)",
            "_compute_matches_int64(keys_signatures, queries_signatures)",
            "_compute_lsh_matches(keys_transformed, queries_transformed, sparse_meta_data, layer_idx)",
        ],
    },
    ADAPTERS + ".base": {
        "Request(context, questions, answer_prefix='')": [],
        "RequestResponse(responses)": [],
        "ModelHubAdapterInterface()": ["process_request(request, generation_kwargs, request_kwargs)"],
        "SparseAttentionAdapterInterface()": ["get_custom_attention_function(sparse_attention)"],
        "ModelAdapter(model_name, sparse_attention_config, **kwargs)": ["enable_sparse_mode()"],
    },
    ADAPTERS + ".huggingface": {
        "ModelAdapterHF(model_name, sparse_attention_config, model_kwargs=None, tokenizer_kwargs=None, device=None, "
        "hybrid=None, **kwargs)": [
            "process_request(request, generation_kwargs, request_kwargs, **kwargs)",
            "get_custom_attention_function(sparse_attention)",
            "enable_sparse_mode()",
            "_generate_unique_attention_name()",
        ]
    },
    SERVERS + ".base": {
        "ModelEntry(model, reference_count, gpu_id, model_kwargs, creation_time=..., last_access_time=...)": [],
        "TokenizerEntry(tokenizer, reference_count, tokenizer_kwargs, creation_time=..., last_access_time=...)": [],
        "ModelServer(config=None)": [
            "_create_model(model_name, gpu_id, model_kwargs)",
            "_create_tokenizer(tokenizer_name, tokenizer_kwargs)",
            "_delete_model(model, gpu_id)",
            "_delete_tokenizer(tokenizer)",
            "get_model(model_name, gpu, model_kwargs)",
            "clear_model(model_name, gpu, model_kwargs)",
            "release_memory_and_clean(model_name, gpu, model_kwargs, force_delete=False)",
            "release_memory_and_clean_all(force_delete=False)",
            "get_tokenizer(tokenizer_name, tokenizer_kwargs)",
            "clear_tokenizer(tokenizer_name, tokenizer_kwargs)",
            "release_tokenizer_and_clean(tokenizer_name, tokenizer_kwargs, force_delete=False)",
            "release_tokenizers_and_clean_all(force_delete=False)",
            "get_model_stats()",
            "get_tokenizer_stats()",
            "cleanup_unused()",
        ],
    },
    SERVERS + ".huggingface": {
        "ModelServerHF(config=None)": [
            "get_model_with_device_info(model_name, gpu, model_kwargs)",
            "validate_gpu_availability(gpu_id)",
            "get_gpu_memory_info(gpu_id=None)",
            "_get_model_registry()",
        ]
    },
    SERVERS + ".model_registry": {
        "RegistryEntry(model_id, model_class, default_model_kwargs)": [],
    },
    ADAPTERS + ".utils.config": {
        "ModelServerConfig(delete_on_zero_reference=False, enable_stats_logging=True, model_registry_path=None, "
        "allow_unregistered_models=True)": [],
    },
    ADAPTERS + ".utils.exceptions": {
        "ModelServerError(message, details='')": [],
        "ModelCreationError(model_name, gpu_id=None, original_error=None)": [],
        "TokenizerCreationError(tokenizer_name, original_error=None)": [],
        "ReferenceCountError(resource_key, operation, current_count)": [],
        "ResourceCleanupError(resource_key, resource_type, original_error=None)": [],
    },
    HUB + ".metric_logging.logger": {
        "LogEvent(timestamp, metric, value, metadata, location)": [],
        "MicroMetricLogger(log_path=None, flush_every=1000, flush_interval=60.0, enabled_metrics=None, max_records=None, "
        "sampling_factor=1.0)": [
            "register_metric(identifier, dtype)",
            "get_registered_metrics()",
            "enable_metrics(metrics=None)",
            "log(identifier, value, metadata=None)",
            "configure_logging(log_path, enabled_metrics=None, max_records=None, sampling_factor=1.0)",
            "flush()",
            "is_metric_enabled(identifier)",
            "get_enabled_metrics()",
            "is_logging_configured()",
            "get_total_records_logged()",
            "is_max_records_reached()",
            "get_records_remaining()",
            "get_sampling_factor()",
            "get_max_records()",
        ],
    },
    HUB + ".plotting.generator": {
        "PlotGenerator(storage_path='./plots')": [
            "generate_plot(granularity, data=None, plot_type='default', **kwargs)",
            "generate_comparison_plot(data_dict, granularity)",
            "set_storage_path(path)",
        ]
    },
}

_MASKED = "scaling, dropout, sparse_attention_mask"
_KMEANS = "cluster_centers=None, tol=0.0001"
_ON_CPU = "device=torch.device('cpu')"
_USA = "num_layers=32, num_heads=32, num_mlp_layers=3, device='cpu'"

#: Module -> functions.
FUNCTIONS: Dict[str, List[str]] = {
    UTILS + ".kv_utils": ["repeat_kv(hidden_states, n_rep)", "_get_num_key_value_groups(queries, kv_tensor)"],
    UTILS
    + ".mask_attention_utils": [
        "get_true_attention_output(module, queries, keys, values, attention_mask, scaling, dropout, **kwargs)",
        "apply_inv_mask_sum(input_tensor, mask)",
        "create_sampling_mask_with_per_head_budget(budgets, sampling_probability, seq_len_keys, start_idx, end_idx, "
        "dtype=torch.float32)",
        f"_compute_masked_exp_attention_weights({_STEP}, sparse_attention_mask, dropout=0.0, training=False)",
        "_get_attention_denominator(exp_attention_weights)",
        "_get_attention_numerator(exp_attention_weights, value_states)",
        f"get_attention_denominator(module, queries, keys, attention_mask, {_MASKED}, **kwargs)",
        f"get_attention_numerator(module, queries, keys, values, attention_mask, {_MASKED}, **kwargs)",
        "apply_sink_bias(num, den, exp_attention_weights, queries, keys, attention_mask, sinks, scaling)",
        f"get_masked_attention_output(module, queries, keys, values, attention_mask, sinks, {_MASKED}, "
        "return_attention_weights=False, **kwargs)",
    ],
    UTILS
    + ".hashattention_utils": [
        f"convert_usa_weights_to_hash_attention(usa_checkpoint_path, {_USA})",
        f"create_hat_weights_file_from_usa(usa_checkpoint_path, target_hat_path, {_USA})",
        "load_hat_weights(hat_weights_path, device='cpu')",
    ],
    FIXED + ".utils.common_utils": ["pseudo_quantize(tensor, q_bit)"],
    FIXED
    + ".utils.double_sparsity_utils": [
        "load_sorted_channels_from_file(file_path)",
        "extract_layer_channels(sorted_channels, layer_idx, projection_type, device)",
        "validate_channel_data(data)",
    ],
    FIXED
    + ".utils.pq_utils": [
        f"kmeans_batched(X, num_clusters, distance='euclidean', {_KMEANS}, tqdm_flag=False, iter_limit=0, {_ON_CPU}, "
        "seed=None)",
        f"kmeans(X, num_clusters, distance='euclidean', {_KMEANS}, iter_limit=0, {_ON_CPU}, seed=None)",
        "kmeans_batched_pytorch(data, k, max_iter)",
        "kmeans_loop_pytorch(data, k, max_iter)",
        "kmeans_loop_sklearn(data, k, max_iter)",
        "initialize_batched(X, num_clusters, seed=None)",
        f"pairwise_distance_batched(data1, data2, {_ON_CPU}, tqdm_flag=False)",
        "_initialize_kmeans(X, num_clusters, seed=None)",
        f"_pairwise_distance(data1, data2, {_ON_CPU})",
        "ip2l2_augment(xb)",
        "ip2l2_augment_queries(xq, phi)",
        "compute_reconstruction_errors(original_keys, centroids, codebook, pq_sub_dim, use_ip_metric=False)",
    ],
    FIXED
    + ".utils.quest_utils": [
        "compute_page_min_max(keys_rep, page_size, num_pages)",
        "quest_page_scores(queries, page_min, page_max)",
        "pages_to_token_mask(topk_pages, K, page_size, device, dtype)",
        "attention_mask_to_allowed_prob(attention_mask, K)",
        "pages_valid(allowed_prob, page_size, num_pages)",
    ],
    FIXED
    + ".utils.socket_utils": [
        "get_hyper_planes(cache, D, L, P, device, dtype, rng=None)",
        "get_protos_T(cache, P, device, dtype)",
        "pack_bits(bits)",
        "hard_hash(tensor, planes)",
        "soft_hash(queries, planes, protos_T, tau=1.0)",
        "attention_mask_to_allowed_prob(attention_mask, N)",
        "topk_soft_collision_scores_blockwise(q_probs, key_buckets, v_mag, allowed_bool, M, block=4096)",
    ],
    SERVERS
    + ".model_registry": [
        "load_model_registry(path)",
        "resolve_model_class(model_class)",
        "_import_symbol(symbol)",
        "_maybe_construct(value)",
    ],
    ADAPTERS + ".utils.gpu_utils": ["cleanup_gpu_memory(gpu_id=None)"],
    ADAPTERS + ".utils.key_generation": ["hash_kwargs(kwargs)"],
    ADAPTERS
    + ".utils.model_utils": [
        "generate_model_key(model_name, gpu_id, model_kwargs)",
        "generate_tokenizer_key(tokenizer_name, tokenizer_kwargs)",
    ],
}

#: Module -> other names that must be there.
OTHERS: Dict[str, List[str]] = {
    SERVERS + ".model_registry": ["ModelRegistryError"],
    ADAPTERS + ".huggingface": ["INT_MAX"],
    HUB + ".plotting.granularity": ["Granularity.PER_TOKEN", "Granularity.PER_HEAD", "Granularity.PER_LAYER"],
}

#: What is known to be missing, "module:name" -> why. It must be missing: whoever adds it takes it out of here.
MISSING: Dict[str, str] = {}

#: Where parameters differ on purpose, "module:name" -> (how it is written here, why).
DIFFERENT: Dict[str, Tuple[str, str]] = {}
