//! The names of public architectures, and what they mean.

use super::*;

/// A tensor by name and shape, float unless `dtype` says otherwise.
type Row<'a> = (&'a str, &'a [u64], Role);

fn subject<'a>(name: &'a str, shape: &'a [u64]) -> Subject<'a> {
    Subject { name, shape: Some(shape), dtype: Some(DType::F32) }
}

fn check(model: &str, rows: &[Row<'_>]) {
    let subjects: Vec<_> = rows.iter().map(|(name, shape, _)| subject(name, shape)).collect();
    for (named, (name, _, role)) in assign(&subjects, &NameRules::default()).iter().zip(rows) {
        assert_eq!(named.role, *role, "{model}: {name}");
    }
}

fn canonical(names: &[&str]) -> Vec<String> {
    canonical_names(names.iter().copied())
}

#[test]
fn gpt2() {
    let rows: [Row<'_>; 12] = [
        ("wte.weight", &[50257, 768], Role::TokenEmbedding),
        ("wpe.weight", &[1024, 768], Role::PositionEmbedding),
        ("h.0.ln_1.weight", &[768], Role::NormGain),
        ("h.0.ln_1.bias", &[768], Role::NormBias),
        ("h.0.attn.bias", &[1, 1, 1024, 1024], Role::Buffer),
        ("h.0.attn.masked_bias", &[], Role::Buffer),
        ("h.0.attn.c_attn.weight", &[768, 2304], Role::AttentionQkv),
        ("h.0.attn.c_attn.bias", &[2304], Role::Bias),
        ("h.0.attn.c_proj.weight", &[768, 768], Role::AttentionOutput),
        ("h.0.mlp.c_fc.weight", &[768, 3072], Role::MlpIn),
        ("h.0.mlp.c_proj.weight", &[3072, 768], Role::MlpOut),
        ("ln_f.weight", &[768], Role::NormGain),
    ];
    check("GPT-2", &rows);
}

#[test]
fn llama_mistral_qwen_and_gemma() {
    let rows: [Row<'_>; 14] = [
        ("model.embed_tokens.weight", &[32000, 4096], Role::TokenEmbedding),
        ("model.layers.0.self_attn.q_proj.weight", &[4096, 4096], Role::AttentionQuery),
        ("model.layers.0.self_attn.q_proj.bias", &[4096], Role::Bias),
        ("model.layers.0.self_attn.k_proj.weight", &[1024, 4096], Role::AttentionKey),
        ("model.layers.0.self_attn.v_proj.weight", &[1024, 4096], Role::AttentionValue),
        ("model.layers.0.self_attn.o_proj.weight", &[4096, 4096], Role::AttentionOutput),
        ("model.layers.0.self_attn.q_norm.weight", &[128], Role::NormGain),
        ("model.layers.0.self_attn.rotary_emb.inv_freq", &[64], Role::Buffer),
        ("model.layers.0.mlp.gate_proj.weight", &[11008, 4096], Role::MlpGate),
        ("model.layers.0.mlp.up_proj.weight", &[11008, 4096], Role::MlpIn),
        ("model.layers.0.mlp.down_proj.weight", &[4096, 11008], Role::MlpOut),
        ("model.layers.0.post_attention_layernorm.weight", &[4096], Role::NormGain),
        ("model.norm.weight", &[4096], Role::NormGain),
        ("lm_head.weight", &[32000, 4096], Role::OutputHead),
    ];
    check("LLaMA", &rows);
    let native: [Row<'_>; 14] = [
        ("tok_embeddings.weight", &[32000, 4096], Role::TokenEmbedding),
        ("token_embedding_table.weight", &[65, 384], Role::TokenEmbedding),
        ("position_embedding_table.weight", &[256, 384], Role::PositionEmbedding),
        ("tok.weight", &[96, 64], Role::TokenEmbedding),
        ("pos.weight", &[64, 64], Role::PositionEmbedding),
        ("src_embed.0.lut.weight", &[11, 512], Role::TokenEmbedding),
        ("layers.0.attention.wq.weight", &[4096, 4096], Role::AttentionQuery),
        ("layers.0.attention.wo.weight", &[4096, 4096], Role::AttentionOutput),
        ("layers.0.feed_forward.w1.weight", &[11008, 4096], Role::MlpGate),
        ("layers.0.feed_forward.w2.weight", &[4096, 11008], Role::MlpOut),
        ("layers.0.feed_forward.w3.weight", &[11008, 4096], Role::MlpIn),
        ("layers.0.attention_norm.weight", &[4096], Role::NormGain),
        ("output.weight", &[32000, 4096], Role::OutputHead),
        ("rope.freqs", &[64], Role::Other),
    ];
    check("LLaMA as Meta ships it", &native);
}

#[test]
fn mixtures_of_experts() {
    let rows: [Row<'_>; 8] = [
        ("model.layers.0.block_sparse_moe.gate.weight", &[8, 4096], Role::Router),
        ("model.layers.0.block_sparse_moe.experts.0.w1.weight", &[14336, 4096], Role::Expert),
        ("model.layers.0.mlp.gate.weight", &[60, 2048], Role::Router),
        ("model.layers.0.mlp.experts.3.down_proj.weight", &[2048, 1408], Role::Expert),
        ("model.layers.0.mlp.shared_expert.gate_proj.weight", &[5632, 2048], Role::MlpGate),
        ("model.layers.0.mlp.router.weight", &[32, 2880], Role::Router),
        ("model.layers.0.mlp.experts.gate_up_proj", &[32, 2880, 5760], Role::Expert),
        ("encoder.block.1.layer.1.mlp.router.classifier.weight", &[8, 768], Role::Router),
    ];
    check("Mixtral, Qwen-MoE, GPT-OSS, Switch", &rows);
}

#[test]
fn the_code_book_of_wav2vec() {
    let rows: [Row<'_>; 3] = [
        ("quantizer.weight_proj.weight", &[640, 512], Role::OutputHead),
        ("quantizer.weight_proj.bias", &[640], Role::Bias),
        ("project_q.weight", &[256, 256], Role::Linear),
    ];
    check("wav2vec 2.0", &rows);
}

#[test]
fn bert_roberta_albert_and_minilm() {
    let rows: [Row<'_>; 16] = [
        ("embeddings.word_embeddings.weight", &[30522, 384], Role::TokenEmbedding),
        ("embeddings.position_embeddings.weight", &[512, 384], Role::PositionEmbedding),
        ("embeddings.token_type_embeddings.weight", &[2, 384], Role::PositionEmbedding),
        ("embeddings.LayerNorm.weight", &[384], Role::NormGain),
        ("embeddings.position_ids", &[1, 512], Role::Buffer),
        ("encoder.layer.0.attention.self.query.weight", &[384, 384], Role::AttentionQuery),
        ("encoder.layer.0.attention.output.dense.weight", &[384, 384], Role::AttentionOutput),
        ("encoder.layer.0.attention.output.LayerNorm.bias", &[384], Role::NormBias),
        ("encoder.layer.0.intermediate.dense.weight", &[1536, 384], Role::MlpIn),
        ("encoder.layer.0.output.dense.weight", &[384, 1536], Role::MlpOut),
        ("pooler.dense.weight", &[384, 384], Role::Linear),
        ("cls.predictions.decoder.weight", &[30522, 384], Role::OutputHead),
        ("encoder.albert_layer_groups.0.albert_layers.0.ffn.weight", &[3072, 768], Role::MlpIn),
        ("encoder.albert_layer_groups.0.albert_layers.0.ffn_output.weight", &[768, 3072], Role::MlpOut),
        (
            "encoder.albert_layer_groups.0.albert_layers.0.attention.dense.weight",
            &[768, 768],
            Role::AttentionOutput,
        ),
        ("bert.embeddings.LayerNorm.gamma", &[384], Role::NormGain),
    ];
    check("BERT", &rows);
}

#[test]
fn t5() {
    let rows: [Row<'_>; 8] = [
        ("shared.weight", &[32128, 512], Role::TokenEmbedding),
        ("encoder.block.0.layer.0.SelfAttention.q.weight", &[512, 512], Role::AttentionQuery),
        ("encoder.block.0.layer.0.SelfAttention.o.weight", &[512, 512], Role::AttentionOutput),
        (
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            &[32, 8],
            Role::PositionEmbedding,
        ),
        ("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", &[1024, 512], Role::MlpGate),
        ("encoder.block.0.layer.1.DenseReluDense.wo.weight", &[512, 1024], Role::MlpOut),
        ("decoder.block.0.layer.1.EncDecAttention.v.weight", &[512, 512], Role::AttentionValue),
        ("encoder.final_layer_norm.weight", &[512], Role::NormGain),
    ];
    check("T5", &rows);
}

#[test]
fn opt_bloom_neox_and_falcon() {
    let rows: [Row<'_>; 13] = [
        ("model.decoder.embed_positions.weight", &[2050, 768], Role::PositionEmbedding),
        ("model.decoder.layers.0.self_attn.out_proj.weight", &[768, 768], Role::AttentionOutput),
        ("model.decoder.layers.0.fc1.weight", &[3072, 768], Role::MlpIn),
        ("model.decoder.layers.0.fc2.weight", &[768, 3072], Role::MlpOut),
        ("word_embeddings_layernorm.weight", &[1024], Role::NormGain),
        ("h.0.self_attention.query_key_value.weight", &[3072, 1024], Role::AttentionQkv),
        ("h.0.self_attention.dense.weight", &[1024, 1024], Role::AttentionOutput),
        ("h.0.mlp.dense_h_to_4h.weight", &[4096, 1024], Role::MlpIn),
        ("h.0.mlp.dense_4h_to_h.weight", &[1024, 4096], Role::MlpOut),
        ("gpt_neox.embed_in.weight", &[50304, 512], Role::TokenEmbedding),
        ("gpt_neox.layers.0.attention.dense.weight", &[512, 512], Role::AttentionOutput),
        ("gpt_neox.layers.0.attention.bias", &[1, 1, 2048, 2048], Role::Buffer),
        ("embed_out.weight", &[50304, 512], Role::OutputHead),
    ];
    check("OPT, BLOOM, NeoX", &rows);
}

#[test]
fn images() {
    let rows: [Row<'_>; 19] = [
        ("cls_token", &[1, 1, 768], Role::Other),
        ("pos_embed", &[1, 197, 768], Role::PositionEmbedding),
        ("patch_embed.proj.weight", &[768, 3, 16, 16], Role::Convolution),
        ("blocks.0.attn.qkv.weight", &[2304, 768], Role::AttentionQkv),
        ("blocks.0.attn.proj.weight", &[768, 768], Role::AttentionOutput),
        ("blocks.0.mlp.fc1.weight", &[3072, 768], Role::MlpIn),
        ("blocks.0.mlp.fc2.weight", &[768, 3072], Role::MlpOut),
        ("head.weight", &[1000, 768], Role::OutputHead),
        ("visual.transformer.resblocks.0.attn.in_proj_weight", &[2304, 768], Role::AttentionQkv),
        ("visual.transformer.resblocks.0.attn.in_proj_bias", &[2304], Role::Bias),
        ("visual.transformer.resblocks.0.mlp.c_proj.weight", &[768, 3072], Role::MlpOut),
        ("visual.positional_embedding", &[50, 768], Role::PositionEmbedding),
        ("conv1.weight", &[64, 3, 7, 7], Role::Convolution),
        ("bn1.weight", &[64], Role::NormGain),
        ("bn1.running_var", &[64], Role::Buffer),
        ("layer1.0.downsample.1.weight", &[256], Role::NormGain),
        ("layer1.0.downsample.1.bias", &[256], Role::NormBias),
        ("layer1.0.downsample.1.running_mean", &[256], Role::Buffer),
        ("fc.weight", &[1000, 2048], Role::OutputHead),
    ];
    check("ViT, CLIP, ResNet", &rows);
    let torchvision: [Row<'_>; 5] = [
        ("conv_proj.weight", &[768, 3, 16, 16], Role::Convolution),
        ("encoder.pos_embedding", &[1, 197, 768], Role::PositionEmbedding),
        ("encoder.layers.encoder_layer_0.mlp.0.weight", &[3072, 768], Role::MlpIn),
        ("encoder.layers.encoder_layer_0.mlp.3.weight", &[768, 3072], Role::MlpOut),
        ("heads.head.weight", &[1000, 768], Role::OutputHead),
    ];
    check("torchvision's ViT", &torchvision);
}

#[test]
fn modules_of_torch_nn() {
    let rows: [Row<'_>; 15] = [
        ("layers.0.self_attn.in_proj_weight", &[192, 64], Role::AttentionQkv),
        ("layers.0.self_attn.out_proj.weight", &[64, 64], Role::AttentionOutput),
        ("layers.0.linear1.weight", &[256, 64], Role::MlpIn),
        ("layers.0.linear2.weight", &[64, 256], Role::MlpOut),
        ("layers.0.norm1.weight", &[64], Role::NormGain),
        ("rnn.weight_ih_l0", &[64, 32], Role::RecurrentInput),
        ("rnn.weight_hh_l0", &[64, 64], Role::RecurrentHidden),
        ("rnn.weight_hh_l1_reverse", &[64, 64], Role::RecurrentHidden),
        ("rnn.bias_hh_l0", &[64], Role::Bias),
        ("cell.weight_ih", &[64, 32], Role::RecurrentInput),
        ("conv.weight", &[8, 4, 3], Role::Convolution),
        ("net.0.weight", &[64, 32], Role::Linear),
        ("net.1.weight", &[64], Role::NormGain),
        ("net.1.bias", &[64], Role::NormBias),
        ("activation.weight", &[1], Role::Other),
    ];
    check("torch.nn", &rows);
    check("Sequential", &[("0.weight", &[8, 4], Role::Linear), ("0.bias", &[8], Role::Bias)]);
}

#[test]
fn adapters() {
    let prefix = "base_model.model.model.layers.0.self_attn.q_proj";
    let (a, b) = (format!("{prefix}.lora_A.default.weight"), format!("{prefix}.lora_B.weight"));
    check("LoRA", &[(&a, &[8, 4096], Role::LoraA), (&b, &[4096, 8], Role::LoraB)]);
}

#[test]
fn integers_and_truth_values_are_buffers_whatever_their_name() {
    for dtype in [DType::I64, DType::Bool, DType::U8] {
        let subject = Subject { name: "lm_head.weight", shape: Some(&[8, 8]), dtype: Some(dtype) };
        assert_eq!(assign(&[subject], &NameRules::default())[0].role, Role::Buffer);
    }
}

#[test]
fn a_tensor_that_cannot_be_read_still_has_the_role_of_its_name() {
    let damaged = Subject { name: "h.0.attn.c_attn.weight", shape: None, dtype: None };
    assert_eq!(assign(&[damaged], &NameRules::default())[0].role, Role::AttentionQkv);
}

#[test]
fn unknown_names_are_other() {
    let rows: [Row<'_>; 4] = [
        ("0_onsite.shift", &[89], Role::Other),
        ("equivariant.alpha", &[], Role::Other),
        ("0_convolution.output_mask", &[1152], Role::Buffer),
        ("", &[3, 3], Role::Other),
    ];
    check("names of their own", &rows);
}

#[test]
fn wrappers_and_a_shared_prefix_are_removed() {
    assert_eq!(canonical(&["module.fc.weight", "module.fc.bias"]), ["fc.weight", "fc.bias"]);
    assert_eq!(canonical(&["_orig_mod.module.a.weight"]), ["a.weight"]);
    assert_eq!(canonical(&["layers.0._checkpoint_wrapped_module.a.weight"]), ["layers.0.a.weight"]);
    assert_eq!(canonical(&["_fsdp_wrapped_module.layers.0._fsdp_wrapped_module.w"]), ["layers.0.w"]);
    assert_eq!(canonical(&["model.a.weight", "model.b.weight"]), ["a.weight", "b.weight"]);
    assert_eq!(canonical(&["model.a.weight", "lm_head.weight"]), ["model.a.weight", "lm_head.weight"]);
}

#[test]
fn a_body_is_named_the_same_with_its_tied_head_and_without() {
    let body = ["model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"];
    assert_eq!(canonical(&body), body);
    assert_eq!(canonical(&[body[0], body[1], "lm_head.weight"])[..2], body);
}

#[test]
fn codes_of_fp8_beside_their_scales_are_no_weights() {
    let narrow = |name| Subject { dtype: Some(DType::F8E4M3), ..subject(name, &[8, 8]) };
    let subjects = [
        narrow("layers.0.mlp.up_proj.weight"),
        subject("layers.0.mlp.up_proj.weight_scale_inv", &[1, 1]),
        narrow("layers.0.mlp.down_proj.weight"),
    ];
    let roles: Vec<Role> =
        assign(&subjects, &NameRules::default()).into_iter().map(|named| named.role).collect();
    assert_eq!(roles, [Role::Buffer, Role::Buffer, Role::MlpOut]);
}

#[test]
fn names_that_would_become_one_stay_apart() {
    assert_eq!(canonical(&["module.a", "a"]), ["module.a", "a"]);
    assert_eq!(canonical(&["module", "model.", "a.module"]), ["module", "model.", "a"]);
}

#[test]
fn blocks_are_numbered() {
    let cases = [
        ("layers.3.mlp.up_proj.weight", Some(3)),
        ("transformer.h.11.attn.c_attn.weight", Some(11)),
        ("encoder.layer.3.attention.self.query.weight", Some(3)),
        ("encoder.block.3.layer.1.DenseReluDense.wi.weight", Some(3)),
        ("layer3.1.conv2.weight", Some(1)),
        ("transformer.resblocks.7.ln_1.bias", Some(7)),
        ("encoder.layers.encoder_layer_5.ln_1.bias", Some(5)),
        ("layers.2.experts.7.w1.weight", Some(2)),
        ("experts.7.w1.weight", None),
        ("net.2.weight", Some(2)),
        ("rnn.weight_hh_l1_reverse", Some(1)),
        ("lm_head.weight", None),
        ("layers.99999999999999999999.weight", None),
    ];
    for (name, index) in cases {
        assert_eq!(order::block_index(name), index, "{name}");
    }
}

#[test]
fn layers_are_put_in_forward_order_whatever_the_order_of_the_file() {
    let alphabetical = [
        "h.0.attn.c_attn.weight",
        "h.0.attn.c_proj.weight",
        "h.0.ln_1.weight",
        "h.0.ln_2.weight",
        "h.0.mlp.c_fc.weight",
        "h.0.mlp.c_proj.weight",
        "h.10.ln_1.weight",
        "h.2.ln_1.weight",
        "lm_head.weight",
        "ln_f.weight",
        "wpe.weight",
        "wte.weight",
    ];
    let subjects: Vec<_> = alphabetical.iter().map(|name| subject(name, &[8, 8])).collect();
    let mut named = assign(&subjects, &NameRules::default());
    named.sort_by_key(|tensor| tensor.layer.order);
    let order: Vec<_> = named.iter().map(|tensor| tensor.layer.path.as_str()).collect();
    let forward = [
        "wte",
        "wpe",
        "h.0.ln_1",
        "h.0.attn.c_attn",
        "h.0.attn.c_proj",
        "h.0.ln_2",
        "h.0.mlp.c_fc",
        "h.0.mlp.c_proj",
        "h.2.ln_1",
        "h.10.ln_1",
        "ln_f",
        "lm_head",
    ];
    assert_eq!(order, forward);
}

#[test]
fn a_name_of_thirty_thousand_components_has_no_role_and_no_place_and_costs_its_length() {
    let deep = format!("{}weight", "experts.".repeat(30_000));
    let long = format!("layers.0.{}.weight", "q".repeat(MAX_NAME_BYTES));
    let names = [deep.as_str(), long.as_str(), "layers.0.q_proj.weight"];
    let subjects: Vec<_> = names.iter().map(|name| subject(name, &[2, 2])).collect();
    let named = assign(&subjects, &NameRules::default());
    for endless in &named[..2] {
        assert_eq!((endless.role, endless.layer.index), (Role::Other, None));
        assert!(endless.layer.order > 0);
    }
    assert_eq!((named[2].role, named[2].layer.index), (Role::AttentionQuery, Some(0)));
    assert_eq!(named[2].layer.order, 0);
}

#[test]
fn the_same_word_under_different_modules_is_ordered_in_each_by_its_first_occurrence() {
    let names = ["x.second.w", "x.first.w", "y.first.w", "y.second.w"];
    let subjects: Vec<_> = names.iter().map(|name| subject(name, &[2])).collect();
    let orders: Vec<u64> =
        assign(&subjects, &NameRules::default()).iter().map(|named| named.layer.order).collect();
    assert_eq!(orders, [0, 1, 2, 3]);
}
