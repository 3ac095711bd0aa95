//! Numbers that follow from the tensors, and blocks that are no layers of the main model.

use super::*;

const KEY: &str = "deepseek4.";

/// What the shapes of Flash tell, with another number that is within bounds.
fn told() -> Vec<(&'static str, Set)> {
    use Set::{I32s, U32};
    let mut ratios = flash().ratios;
    ratios[2] = 128;
    vec![
        ("block_count", U32(42)),
        ("embedding_length", U32(2048)),
        ("vocab_size", U32(129_279)),
        ("attention.head_count", U32(32)),
        ("attention.key_length", U32(256)),
        ("attention.q_lora_rank", U32(512)),
        ("attention.output_lora_rank", U32(512)),
        ("attention.output_group_count", U32(4)),
        ("attention.indexer.head_count", U32(32)),
        ("attention.indexer.key_length", U32(256)),
        ("attention.compress_ratios", I32s(ratios)),
        ("expert_count", U32(128)),
        ("expert_used_count", U32(8)),
        ("expert_feed_forward_length", U32(1024)),
        ("hash_layer_count", U32(4)),
    ]
}

/// Flash with changed keys; `None` leaves one out.
fn flash_with(changes: &[(&'static str, Option<Set>)]) -> Result<Model> {
    flash_of(changes, &tensors(&flash(), Q2), 0)
}

/// The same with these tensors, and with so many tokens if there are any.
fn flash_of(
    changes: &[(&'static str, Option<Set>)],
    tensors: &[(String, Vec<u64>, Format)],
    n_tokens: usize,
) -> Result<Model> {
    let mut keys = keys(&flash());
    keys.retain(|(key, _)| changes.iter().all(|(name, _)| name != key));
    let set = |(name, value): &(&'static str, Option<Set>)| Some((*name, value.clone()?));
    keys.extend(changes.iter().filter_map(set));
    let mut w = with_keys(Writer::new(), &keys);
    if n_tokens > 0 {
        w.string_array("tokenizer.ggml.tokens", &vec!["t"; n_tokens]);
    }
    bind(w, tensors)
}

fn fault(result: Result<Model>) -> String {
    match result {
        Ok(model) => format!("bound, {} layers", model.config.n_layer),
        Err(error) => error.to_string(),
    }
}

#[test]
fn keys_that_shapes_tell_may_be_missing() {
    let original = flash_with(&[]).unwrap().config;
    let defaults = [
        "expert_shared_count",
        "attention.head_count_kv",
        "attention.value_length",
        "hyper_connection.count",
        "expert_weights_norm",
    ];
    let names: Vec<&'static str> = told()
        .iter()
        .map(|(name, _)| *name)
        .chain(defaults)
        .collect();
    for name in &names {
        assert_eq!(
            flash_with(&[(name, None)]).unwrap().config,
            original,
            "{name}"
        );
    }
    let none: Vec<_> = names.iter().map(|name| (*name, None)).collect();
    let model = flash_of(&none, &tensors(&flash(), Q2), N_VOCAB as usize).unwrap();
    assert_eq!(model.config, original);
    assert!(model.notes.is_empty(), "{:?}", model.notes);
    let pro_keys: Vec<_> = keys(&pro())
        .into_iter()
        .filter(|(key, _)| !names.contains(key))
        .collect();
    let tensors = tensors(&pro(), Q4);
    let whole = bind(with_keys(Writer::new(), &keys(&pro())), &tensors).unwrap();
    let derived = bind(with_keys(Writer::new(), &pro_keys), &tensors).unwrap();
    assert_eq!(derived.config, whole.config);
}

#[test]
fn keys_that_contradict_shapes_are_named_with_both_numbers() {
    let original = keys(&flash());
    for (name, wrong) in told() {
        let right = original.iter().find(|(key, _)| *key == name).unwrap();
        let numbers = match (&wrong, &right.1) {
            (Set::U32(wrong), Set::U32(right)) => format!(": found {wrong}, expected {right} ("),
            _ => ": layer 2: found 128, expected 4 (".into(),
        };
        let message = fault(flash_with(&[(name, Some(wrong))]));
        let expected = format!("hollow: key {KEY}{name}{numbers}");
        assert!(
            message.starts_with(&expected),
            "{message}, expected {expected}"
        );
    }
    let message = fault(flash_with(&[(
        "embedding_length_out",
        Some(Set::U32(4096)),
    )]));
    assert!(
        message.contains("embedding_length_out: found 4096, expected 16384"),
        "{message}"
    );
    let widths = Set::I32s(vec![1024; 43]);
    let message = fault(flash_with(&[("expert_feed_forward_length", Some(widths))]));
    assert!(
        message.contains("found 1024, expected 2048 (tensor blk.0.ffn_gate_exps"),
        "{message}"
    );
}

#[test]
fn what_no_shape_tells_is_demanded_by_name() {
    for name in [
        "context_length",
        "rope.dimension_count",
        "attention.sliding_window",
        "attention.indexer.top_k",
        "hyper_connection.sinkhorn_iterations",
        "hyper_connection.epsilon",
        "rope.scaling.original_context_length",
        "expert_weights_scale",
        "attention.compress_rope_freq_base",
        "rope.freq_base",
        "attention.layer_norm_rms_epsilon",
        "swiglu_clamp_exp",
    ] {
        let message = fault(flash_with(&[(name, None)]));
        assert_eq!(message, format!("hollow: key {KEY}{name} is missing"));
    }
    let yarn = ("rope.scaling.type", Some(Set::Text("yarn")));
    let message = fault(flash_with(&[yarn, ("rope.scaling.factor", None)]));
    assert_eq!(
        message,
        format!("hollow: key {KEY}rope.scaling.factor is missing")
    );
}

#[test]
fn tokens_count_as_the_vocabulary_if_no_key_does() {
    let all = tensors(&flash(), Q2);
    let no_key = [("vocab_size", None)];
    let message = fault(flash_of(&no_key, &all, 129_279));
    let expected = "key tokenizer.ggml.tokens: found 129279 elements, expected 129280 (tensor token_embd.weight";
    assert!(message.contains(expected), "{message}");
    // With the key there may be rows that no token has.
    assert!(flash_of(&[], &all, 129_000).is_ok());
}

#[test]
fn shapes_that_fit_nothing_are_named() {
    let with = |name: &str, dims: &[u64]| {
        let mut all = tensors(&flash(), Q2);
        all.iter_mut().for_each(|t| {
            if t.0 == name {
                t.1 = dims.to_vec();
            }
        });
        let no_keys: Vec<_> = told().into_iter().map(|(name, _)| (name, None)).collect();
        fault(flash_of(&no_keys, &all, 0))
    };
    for (name, dims, expected) in [
        (
            "blk.0.attn_output_a.weight",
            &[4064, 8192][..],
            "a part of the 32768 outputs",
        ),
        (
            "blk.0.attn_output_a.weight",
            &[4096, 8191],
            "expected 8 groups",
        ),
        (
            "blk.0.attn_sinks.weight",
            &[2048],
            "found 2048, expected 1 to 1024",
        ),
        (
            "blk.0.ffn_gate_shexp.weight",
            &[4096, 4096],
            "expert_shared_count: found 1, expected 2 (tensor blk.0.ffn_gate_shexp",
        ),
        (
            "blk.2.attn_compressor_ape.weight",
            &[1024, 8],
            "layer 2: compress ratio 8",
        ),
    ] {
        let message = with(name, dims);
        assert!(message.contains(expected), "{name} {dims:?}: {message}");
    }
    let mut all = tensors(&flash(), Q2);
    all.push((
        "blk.5.ffn_gate_tid2eid.weight".into(),
        vec![6, N_VOCAB],
        Format::I32,
    ));
    let message = fault(flash_of(&[], &all, 0));
    assert!(
        message.contains("blk.5.ffn_gate_tid2eid.weight is there, expected"),
        "{message}"
    );
}

/// Flash and blocks after it: each with the tensors of layer 0, and with `nextn` tensors if `is_nextn`.
fn with_blocks(blocks: &[u64], is_nextn: bool) -> Vec<(String, Vec<u64>, Format)> {
    let mut all = tensors(&flash(), Q2);
    let first: Vec<_> = all
        .iter()
        .filter(|t| t.0.starts_with("blk.0."))
        .cloned()
        .collect();
    for block in blocks {
        for (name, dims, format) in &first {
            let name = name.replace("blk.0.", &format!("blk.{block}."));
            all.push((name, dims.clone(), *format));
        }
        if is_nextn {
            let enorm = format!("blk.{block}.nextn.enorm.weight");
            all.push((enorm, vec![4096], Format::F32));
        }
    }
    all
}

#[test]
fn blocks_that_predict_further_tokens_are_no_layers() {
    let number = |name: &'static str, n: Option<u32>| (name, n.map(Set::U32));
    let load = |blocks: &[u64], is_nextn, count, nextn| {
        let keys = [
            number("block_count", count),
            number("nextn_predict_layers", nextn),
        ];
        flash_of(&keys, &with_blocks(blocks, is_nextn), 0)
    };
    let original = flash_with(&[]).unwrap();
    for (blocks, is_nextn, count, nextn) in [
        (&[43][..], true, Some(44), Some(1)), // llama.cpp's converter
        (&[43], true, Some(44), None),
        (&[43], true, Some(43), Some(1)),
        (&[43], true, Some(43), None),
        (&[43], true, None, None),
        (&[43, 44], true, Some(45), Some(2)),
        (&[], false, Some(44), Some(1)), // left out when the file was written
        (&[], false, Some(43), Some(1)), // 44 ratios say that 43 are layers
        (&[], false, Some(43), Some(0)),
        (&[], false, None, Some(1)),
    ] {
        let case = format!("{blocks:?}, {is_nextn}, {count:?}, {nextn:?}");
        let model = load(blocks, is_nextn, count, nextn).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(model.config, original.config, "{case}");
        assert_eq!(model.byte_totals(), original.byte_totals(), "{case}");
        assert_eq!(model.notes.len(), blocks.len(), "{case}: {:?}", model.notes);
        for (note, block) in model.notes.iter().zip(blocks) {
            let start = format!(
                "block {block} predicts further tokens (nextn) and is not used: 25 tensors, "
            );
            assert!(note.starts_with(&start), "{note}");
        }
    }
    for (blocks, is_nextn, count, nextn, expected) in [
        (
            &[43][..],
            true,
            Some(44),
            Some(2),
            "nextn_predict_layers: found 2, expected 1",
        ),
        (
            &[43],
            true,
            Some(42),
            Some(1),
            "block_count: found 42, expected 44",
        ),
        (
            &[43],
            true,
            Some(45),
            None,
            "block_count: found 45, expected 44",
        ),
        (
            &[43],
            false,
            Some(43),
            None,
            "block_count: found 43, expected 44",
        ),
        // All layers, or the last one none: it cannot be known.
        (
            &[43],
            false,
            Some(44),
            Some(1),
            "nextn_predict_layers: found 1, expected 0, or nextn tensors in block 43",
        ),
        (
            &[],
            false,
            Some(44),
            None,
            "block_count: found 44, expected 43",
        ),
        (
            &[],
            false,
            Some(43),
            Some(700),
            "found 700, expected 0 to 512",
        ),
        (
            &[40],
            true,
            Some(43),
            Some(1),
            "block 40 has nextn tensors, expected them after the last layer, 42",
        ),
        (
            &[600],
            true,
            Some(43),
            Some(1),
            "block: found 600, expected 0 to 511",
        ),
    ] {
        let message = match blocks {
            // Layer 40 is there already.
            [40] => {
                let mut all = tensors(&flash(), Q2);
                all.push(("blk.40.nextn.enorm.weight".into(), vec![4096], Format::F32));
                let keys = [
                    number("block_count", count),
                    number("nextn_predict_layers", nextn),
                ];
                fault(flash_of(&keys, &all, 0))
            }
            _ => fault(load(blocks, is_nextn, count, nextn)),
        };
        assert!(message.contains(expected), "{message}, expected {expected}");
    }
}

/// Without a tensor the keys alone speak.
#[test]
fn more_predicting_blocks_than_blocks_are_refused() {
    let message = changed("nextn_predict_layers", Some(Set::U32(43))).unwrap_err();
    let expected =
        "key deepseek4.nextn_predict_layers: found 43, expected below deepseek4.block_count";
    assert_eq!(message.to_string(), expected);
    let config = changed("nextn_predict_layers", Some(Set::U32(1))).unwrap();
    assert_eq!(config.n_layer, 42);
}
