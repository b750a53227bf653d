//! The program: files in, files out, and what it says of bad ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use condensed_rope::config::Config;
use condensed_rope::{CondensedRotaryEmbedding, Layout, Pairing, Positions, cpu};
use half::bf16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use testkit::call::noise;
use testkit::conformance::models;

/// The program that cargo built for this run; on a machine without cargo, the one that is named.
fn program() -> PathBuf {
    let named = std::env::var_os("CONDENSED_ROPE_CLI");
    named.map_or_else(|| env!("CARGO_BIN_EXE_rotate").into(), PathBuf::from)
}

/// A folder of the test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("condensed-rope-{}-{name}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a temporary folder");
    folder
}

/// Runs it in a folder.
fn run(folder: &Path, arguments: &str) -> Output {
    let mut command = Command::new(program());
    command.current_dir(folder).args(arguments.split_whitespace());
    command.output().expect("the program runs")
}

fn bytes<T: Copy, const N: usize>(values: &[T], bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| bytes(value)).collect()
}

/// q and k of noise, bf16, `[tokens, heads, dim]`, and positions of any shape.
fn write(path: &Path, q: [usize; 3], k: [usize; 3], positions: (&[usize], &[i64])) -> Vec<bf16> {
    let len = |shape: [usize; 3]| shape.iter().product();
    let values: Vec<bf16> = noise(len(q), 1);
    let q_bytes = bytes(&values, bf16::to_le_bytes);
    let k_bytes = bytes(&noise::<bf16>(len(k), 2), bf16::to_le_bytes);
    let ids = bytes(positions.1, i64::to_le_bytes);
    let view = |dtype, shape: &[usize], data| {
        TensorView::new(dtype, shape.to_vec(), data).expect("as many bytes as the shape has")
    };
    let tensors = [
        ("q", view(Dtype::BF16, &q, &q_bytes)),
        ("k", view(Dtype::BF16, &k, &k_bytes)),
        ("positions", view(Dtype::I64, positions.0, &ids)),
    ];
    safetensors::serialize_to_file(tensors, None, path).expect("a file");
    values
}

#[test]
fn rotates_files() {
    let folder = folder("rotates");
    fs::write(folder.join("config.json"), models::json("longchat_7b_16k")).expect("a file");
    let ids = [0, 16_383, 7];
    let shape = [3, 32, 128];
    let mut q = write(&folder.join("in.safetensors"), shape, shape, (&[3], &ids));
    let output = run(
        &folder,
        "--config config.json --input in.safetensors --output out.safetensors --backend cpu",
    );
    assert!(output.status.success(), "{output:?}");
    let config = models::config("longchat_7b_16k");
    cpu::Rope::new(models::rotaries(&config)[0].schedule.frequencies(), Pairing::HalfSplit)
        .rotate(
            Some(cpu::Heads::in_place(&mut q, Layout::thd(3, 32, 128))),
            None,
            Positions::ids(&ids),
        )
        .expect("a valid call");
    let file = fs::read(folder.join("out.safetensors")).expect("a file");
    let file = SafeTensors::deserialize(&file).expect("tensors");
    let mut names = file.names();
    names.sort_unstable();
    assert_eq!(names, ["k", "q"]);
    let out = file.tensor("q").expect("q");
    assert_eq!((out.dtype(), out.shape()), (Dtype::BF16, &shape[..]));
    assert_eq!(out.data(), bytes(&q, bf16::to_le_bytes));

    // And back again, to within what two roundings to bf16 leave.
    let back = "--config config.json --input out.safetensors --output back.safetensors --inverse";
    assert!(run(&folder, &format!("{back} --backend cpu")).status.success());
    fs::remove_dir_all(folder).expect("it was there");
}

#[test]
fn no_tokens_are_no_trouble() {
    let folder = folder("empty");
    fs::write(folder.join("config.json"), models::json("longchat_7b_16k")).expect("a file");
    write(&folder.join("in.safetensors"), [0, 32, 128], [0, 32, 128], (&[0], &[]));
    let output =
        run(&folder, "--config config.json --input in.safetensors --output out.safetensors");
    assert!(output.status.success(), "{output:?}");
    let file = fs::read(folder.join("out.safetensors")).expect("a file");
    let file = SafeTensors::deserialize(&file).expect("tensors");
    assert_eq!(file.tensor("q").expect("q").shape(), [0, 32, 128]);
    fs::remove_dir_all(folder).expect("it was there");
}

#[test]
fn writes_fastchats_table() {
    let folder = folder("table");
    let plain = r#"{"model_type": "llama", "hidden_size": 512, "num_attention_heads": 4}"#;
    fs::write(folder.join("config.json"), plain).expect("a file");
    let output = run(
        &folder,
        "--config config.json --condense-ratio 8 --cos-sin 70 --output t.safetensors --backend cpu",
    );
    assert!(output.status.success(), "{output:?}");
    let file = fs::read(folder.join("t.safetensors")).expect("a file");
    let file = SafeTensors::deserialize(&file).expect("tensors");
    let mut embedding = CondensedRotaryEmbedding::new(128, 8.0).expect("valid");
    let expected = embedding.forward::<f32>(70).expect("a table");
    for (name, values) in [("cos", &expected.cos), ("sin", &expected.sin)] {
        let table = file.tensor(name).expect("a tensor");
        assert_eq!((table.dtype(), table.shape()), (Dtype::F32, &[1, 1, 70, 128][..]));
        assert_eq!(table.data(), bytes(values, f32::to_le_bytes));
    }
    fs::remove_dir_all(folder).expect("it was there");
}

/// A file of named tensors of bf16 noise and of ids; the tensors' values.
fn write_tensors(
    path: &Path,
    tensors: &[(&str, &[usize])],
    ids: (&[usize], &[i64]),
) -> Vec<Vec<bf16>> {
    let values: Vec<Vec<bf16>> = tensors
        .iter()
        .enumerate()
        .map(|(i, (_, shape))| noise(shape.iter().product(), i as u64 + 9))
        .collect();
    let data: Vec<Vec<u8>> = values.iter().map(|values| bytes(values, bf16::to_le_bytes)).collect();
    let id_bytes = bytes(ids.1, i64::to_le_bytes);
    let view = |dtype, shape: &[usize], data| {
        TensorView::new(dtype, shape.to_vec(), data).expect("as many bytes as the shape has")
    };
    let mut all: Vec<(&str, TensorView)> = tensors
        .iter()
        .zip(&data)
        .map(|((name, shape), data)| (*name, view(Dtype::BF16, shape, data)))
        .collect();
    all.push(("positions", view(Dtype::I64, ids.0, &id_bytes)));
    safetensors::serialize_to_file(all, None, path).expect("a file");
    values
}

fn tensor(path: &Path, name: &str) -> Vec<u8> {
    let file = fs::read(path).expect("a file");
    let file = SafeTensors::deserialize(&file).expect("tensors");
    file.tensor(name).expect("a tensor").data().to_vec()
}

/// Ids of every leading dimension that frameworks hand over, for a batch of two.
#[test]
fn ids_broadcast() {
    let folder = folder("broadcast");
    fs::write(folder.join("config.json"), models::json("longchat_7b_16k")).expect("a file");
    fs::write(folder.join("vl.json"), models::json("qwen2_vl_7b")).expect("a file");
    let plain = models::config("longchat_7b_16k");
    let vl = models::config("qwen2_vl_7b");
    let (row, rows) = ([5i64, 900, 16_000], [5i64, 900, 16_000, 7, 8, 9]);
    let axes: Vec<i64> = (0..9).map(|i| i * i * 31).collect();
    let all_axes: Vec<i64> = (0..18).map(|i| i * i * 17).collect();
    let with_text = |axes: &[i64], n: usize| [vec![-1; n], axes.to_vec()].concat();
    let sections = models::rotaries(&vl)[0].sections.expect("M-RoPE");
    type Case<'a> = (&'a str, Vec<usize>, Vec<i64>, Positions<cpu::Ids<'a>>);
    let strided = |axes, strides| Positions::strided_axes(axes, sections, strides);
    let cases: Vec<Case> = vec![
        ("config.json", vec![3], row.to_vec(), Positions::shared_ids(&row)),
        ("config.json", vec![1, 3], row.to_vec(), Positions::shared_ids(&row)),
        ("config.json", vec![2, 3], rows.to_vec(), Positions::ids(&rows)),
        ("config.json", vec![6], rows.to_vec(), Positions::ids(&rows)),
        ("vl.json", vec![2, 3], rows.to_vec(), Positions::ids(&rows)),
        ("vl.json", vec![3, 1, 3], axes.clone(), strided(&axes, [3, 0])),
        ("vl.json", vec![3, 3], axes.clone(), strided(&axes, [3, 0])),
        ("vl.json", vec![3, 2, 3], all_axes.clone(), Positions::axes(&all_axes, sections)),
        ("vl.json", vec![4, 2, 3], with_text(&all_axes, 6), Positions::axes(&all_axes, sections)),
        ("vl.json", vec![4, 1, 3], with_text(&axes, 3), strided(&axes, [3, 0])),
    ];
    for (config, shape, ids, positions) in cases {
        let input = folder.join("in.safetensors");
        let q = write_tensors(&input, &[("q", &[2, 3, 4, 128])], (&shape, &ids));
        let arguments = format!(
            "--config {config} --input in.safetensors --output out.safetensors --backend cpu"
        );
        let output = run(&folder, &arguments);
        assert!(output.status.success(), "{shape:?}: {output:?}");
        let layer = models::rotaries(if config == "vl.json" { &vl } else { &plain })[0];
        let mut expected = q[0].clone();
        let heads = cpu::Heads::in_place(&mut expected, Layout::bshd(2, 3, 4, 128));
        cpu::Rope::new(layer.schedule.frequencies(), Pairing::HalfSplit)
            .rotate(Some(heads), None, positions)
            .expect("a valid call");
        let got = tensor(&folder.join("out.safetensors"), "q");
        assert!(got == bytes(&expected, bf16::to_le_bytes), "{shape:?}");
    }
    fs::remove_dir_all(folder).expect("it was there");
}

/// k alone, in Megatron's order; a model type that does not say how channels pair; a config's length by ids.
#[test]
fn what_the_file_does_not_say_is_asked_for() {
    let folder = folder("asked");
    let unknown = r#"{"model_type": "unheard_of", "hidden_size": 64, "num_attention_heads": 4}"#;
    fs::write(folder.join("config.json"), unknown).expect("a file");
    let shape = [3, 2, 4, 16];
    let ids = [0, 5, 70_000];
    let input = folder.join("in.safetensors");
    let k = write_tensors(&input, &[("k", &shape)], (&[3], &ids));
    let arguments = "--config config.json --input in.safetensors --output out.safetensors \
                     --layout sbhd --backend cpu";
    let refused = run(&folder, arguments);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(2) && error.contains("--pairing"), "{error}");
    for (name, pairing) in
        [("half-split", Pairing::HalfSplit), ("interleaved", Pairing::Interleaved)]
    {
        let output = run(&folder, &format!("{arguments} --pairing {name}"));
        assert!(output.status.success(), "{output:?}");
        let mut expected = k[0].clone();
        let layout = Layout::contiguous("k", condensed_rope::DimOrder::Sbhd, &shape);
        let heads = cpu::Heads::in_place(&mut expected, layout.expect("four sizes"));
        let frequencies = condensed_rope::Frequencies::new(16, 10_000.0).expect("valid");
        cpu::Rope::new(&frequencies, pairing)
            .rotate(None, Some(heads), Positions::shared_ids(&ids))
            .expect("a valid call");
        let got = tensor(&folder.join("out.safetensors"), "k");
        assert!(got == bytes(&expected, bf16::to_le_bytes), "{name}");
    }
    // A model type that says so is not overruled.
    fs::write(folder.join("config.json"), models::json("longchat_7b_16k")).expect("a file");
    write_tensors(&input, &[("q", &[3, 4, 128])], (&[3], &ids));
    let refused = run(
        &folder,
        "--config config.json --input in.safetensors --output out.safetensors --pairing interleaved",
    );
    assert!(String::from_utf8_lossy(&refused.stderr).contains("HalfSplit"), "{refused:?}");
    fs::remove_dir_all(folder).expect("it was there");
}

/// LongRoPE's list and dynamic scaling go by the last position, not by the number of tokens.
#[test]
fn the_length_is_that_of_the_ids() {
    let folder = folder("length");
    for name in ["phi_3_5_mini", "kind_dynamic"] {
        fs::write(folder.join("config.json"), models::json(name)).expect("a file");
        let config = models::config(name);
        let layer = models::rotaries(&config)[0];
        let input = folder.join("in.safetensors");
        for (last, length) in [(100, 101), (100_000, 100_001)] {
            let shape = [3, 4, layer.head_dim];
            let ids = [0, last, 7];
            let q = write_tensors(&input, &[("q", &shape)], (&[3], &ids));
            let arguments = "--config config.json --input in.safetensors --output out.safetensors --backend cpu";
            assert!(run(&folder, arguments).status.success());
            let schedule = layer.schedule.clone().at_length(length);
            let mut expected = q[0].clone();
            let heads = cpu::Heads::in_place(&mut expected, Layout::thd(3, 4, layer.head_dim));
            cpu::Rope::new(schedule.frequencies(), Pairing::HalfSplit)
                .rotate(Some(heads), None, Positions::ids(&ids))
                .expect("a valid call");
            let got = tensor(&folder.join("out.safetensors"), "q");
            assert!(got == bytes(&expected, bf16::to_le_bytes), "{name} to {last}");
        }
    }
    fs::remove_dir_all(folder).expect("it was there");
}

/// The output is whole or not there, and nobody else's file is touched on the way.
#[test]
fn output_is_written_aside() {
    let folder = folder("aside");
    fs::write(folder.join("config.json"), models::json("longchat_7b_16k")).expect("a file");
    let input = folder.join("in.safetensors");
    write_tensors(&input, &[("q", &[1, 4, 128])], (&[1], &[3]));
    for other in ["out.part", "out.safetensors.part"] {
        fs::write(folder.join(other), "somebody else's").expect("a file");
    }
    let arguments = "--config config.json --input in.safetensors --backend cpu --output";
    assert!(run(&folder, &format!("{arguments} out.safetensors")).status.success());
    // A folder cannot be replaced by a file: nothing of the attempt is left.
    fs::create_dir(folder.join("taken")).expect("a folder");
    fs::write(folder.join("taken/inside"), "").expect("a file");
    let refused = run(&folder, &format!("{arguments} taken"));
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    for other in ["out.part", "out.safetensors.part"] {
        let kept = fs::read_to_string(folder.join(other)).expect("it is still there");
        assert_eq!(kept, "somebody else's");
    }
    let mut names: Vec<_> = fs::read_dir(&folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .collect();
    names.sort();
    let expected = ["config.json", "in.safetensors", "out.part", "out.safetensors"];
    assert_eq!(names, [&expected[..], &["out.safetensors.part", "taken"]].concat());
    fs::remove_dir_all(folder).expect("it was there");
}

/// One line on standard error, exit code 2, no output file.
#[test]
fn bad_input_leaves_nothing_behind() {
    let folder = folder("bad");
    fs::write(folder.join("config.json"), models::json("longchat_7b_16k")).expect("a file");
    fs::write(folder.join("gemma.json"), models::json("gemma_3_12b")).expect("a file");
    let smol = r#"{"model_type": "smollm3", "hidden_size": 64, "num_attention_heads": 4,
        "num_hidden_layers": 8}"#;
    fs::write(folder.join("smol.json"), smol).expect("a file");
    fs::write(
        folder.join("spiral.json"),
        models::json("longchat_7b_16k").replace("linear", "spiral"),
    )
    .expect("a file");
    fs::write(folder.join("noise.safetensors"), "no tensors").expect("a file");
    let shape = [3, 32, 128];
    write(&folder.join("in.safetensors"), shape, shape, (&[3], &[1, 2, 3]));
    write(&folder.join("ids.safetensors"), shape, shape, (&[4], &[1, 2, 3, 4]));
    write(&folder.join("k.safetensors"), shape, [4, 32, 128], (&[3], &[1, 2, 3]));
    write(&folder.join("dim.safetensors"), [3, 32, 64], shape, (&[3], &[1, 2, 3]));
    // Two thousand million million tokens of no heads.
    let huge = r#"{"q":{"dtype":"BF16","shape":[4611686018427387904,0,128],"data_offsets":[0,0]}}"#;
    let header = (huge.len() as u64).to_le_bytes();
    fs::write(folder.join("huge.safetensors"), [&header, huge.as_bytes()].concat())
        .expect("a file");
    for (arguments, says) in [
        ("--config none.json --input in.safetensors", "none.json"),
        ("--config spiral.json --input in.safetensors", "type"),
        ("--config config.json --input none.safetensors", "none.safetensors"),
        ("--config config.json --input noise.safetensors", "noise.safetensors"),
        ("--config config.json --input ids.safetensors", "positions"),
        ("--config config.json --input k.safetensors", "k"),
        ("--config config.json --input dim.safetensors", "64"),
        ("--config config.json --input in.safetensors --layout bshd", "dimensions"),
        ("--config config.json --input in.safetensors --condense-ratio 8", "twice"),
        ("--config config.json --input in.safetensors --layer-type deep", "--layer-type"),
        ("--config smol.json --input in.safetensors --layer 8", "--layer must be below 8"),
        ("--config smol.json --input in.safetensors --layer 7", "layer 7 does not rotate"),
        ("--config gemma.json --input in.safetensors", "sliding_attention"),
        ("--config config.json --input in.safetensors --backend abacus", "abacus"),
        ("--config config.json", "--input"),
        ("--input in.safetensors", "--config"),
        ("--config config.json --cos-sin 9000000000", "memory"),
        ("--config config.json --cos-sin 99999999999999999999", "99999999999999999999"),
        ("--config config.json --cos-sin 18446744073709551615", "memory"),
        ("--config config.json --input huge.safetensors", "tokens"),
    ] {
        let output = run(&folder, &format!("{arguments} --output out.safetensors"));
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments}: {error}");
        assert!(error.lines().count() == 1 && error.contains(says), "{arguments}: {error}");
        let left: Vec<_> = fs::read_dir(&folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
            .filter(|name| name.starts_with("out"))
            .collect();
        assert!(left.is_empty(), "{arguments} left {left:?}");
    }
    fs::remove_dir_all(folder).expect("it was there");
}

#[test]
fn inspects_configs() {
    let folder = folder("inspects");
    fs::write(folder.join("config.json"), models::json("gemma_3_12b")).expect("a file");
    let output = run(&folder, "inspect --config config.json --svg pairs.svg");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    for expected in
        ["linear, ratio 8", "full_attention", "sliding_attention", "50.27", "6.28", "1.0000"]
    {
        assert!(text.contains(expected), "{expected} is not in {text}");
    }
    let svg = fs::read_to_string(folder.join("pairs.svg")).expect("a picture");
    assert!(svg.contains("sliding_attention, after"));
    fs::remove_dir_all(folder).expect("it was there");
}

/// The same bytes on the CPU and on the GPU, for every model of the table.
#[test]
#[ignore = "needs a CUDA GPU"]
fn backends_write_the_same_bytes() {
    let folder = folder("backends");
    let mut models = 0;
    for name in models::NAMES {
        let config = models::config(name);
        fs::write(folder.join("config.json"), models::json(name)).expect("a file");
        for group in &config.groups {
            let Some(rotary) = &group.rotary else { continue };
            let shape = [3, 4, rotary.head_dim];
            write(&folder.join("in.safetensors"), shape, shape, (&[3], &[5, 131_071, 70]));
            let choice = group
                .layer_types
                .first()
                .map_or(String::new(), |name| format!(" --layer-type {name}"));
            let files = ["cpu", "cuda"].map(|backend| {
                let output = format!("{backend}.safetensors");
                let arguments = format!(
                    "--config config.json --input in.safetensors --output {output} --backend {backend}"
                );
                let ran = run(&folder, &(arguments + &choice));
                assert!(ran.status.success(), "{name}: {ran:?}");
                fs::read(folder.join(output)).expect("a file")
            });
            assert!(files[0] == files[1], "{name}: the backends differ");
            models += 1;
        }
    }
    println!("{models} ropes, the same bytes");
    fs::remove_dir_all(folder).expect("it was there");
}

/// The same in JSON, which reads back to the library's numbers; layers that do not rotate are null.
#[test]
fn inspects_configs_for_programs() {
    let folder = folder("json");
    let smol = r#"{"model_type": "smollm3", "hidden_size": 64, "num_attention_heads": 4,
        "num_hidden_layers": 8, "max_position_embeddings": 64,
        "rope_scaling": {"type": "dynamic", "factor": 2.0}}"#;
    fs::write(folder.join("config.json"), smol).expect("a file");
    let inspect = |more: &str| -> serde_json::Value {
        let output = run(&folder, &format!("inspect --config config.json --json{more}"));
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("one object")
    };
    let config = Config::from_json(smol).expect("it is read");
    let rotary = config.rotary(None).expect("all alike");
    for (more, length) in [("", None), (" --length 64", Some(64)), (" --length 1000", Some(1000))] {
        let object = inspect(more);
        assert_eq!(object["length"].as_u64(), length.map(|length| length as u64));
        let [turning, other] = [0, 1].map(|group| &object["groups"][group]);
        assert_eq!(turning["indices"], serde_json::json!([0, 1, 2, 4, 5, 6]));
        assert_eq!(turning["changes_from"], 65);
        assert_eq!(turning["scaling"]["name"], "dynamic");
        assert_eq!(turning["pairing"], "half-split");
        let schedule = rotary.schedule.clone().at_length(length.unwrap_or(1));
        let expected: Vec<f64> = schedule.frequencies().inv_freq().collect();
        let got: Vec<f64> = turning["inv_freq"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|number| number.as_f64().expect("a number"))
            .collect();
        assert_eq!(got, expected);
        assert_eq!(
            (&other["rotates"], &other["indices"]),
            (&false.into(), &serde_json::json!([3, 7]))
        );
        let keys = |group: &serde_json::Value| group.as_object().map(|group| group.len());
        assert_eq!(keys(turning), keys(other));
        assert!(other["inv_freq"].is_null());
    }
    assert_eq!(inspect(" --layer 7")["groups"].as_array().map(Vec::len), Some(1));
    fs::remove_dir_all(folder).expect("it was there");
}

/// What a file cannot say comes from the command line; what it does say stays; a GGUF file is read as well.
#[test]
fn takes_what_the_config_cannot_say() {
    let folder = folder("explicit");
    let mine = r#"{"model_type": "mine", "hidden_size": 1024, "num_attention_heads": 8}"#;
    fs::write(folder.join("mine.json"), mine).expect("a file");
    let llama = r#"{"model_type": "llama", "hidden_size": 1024, "num_attention_heads": 8}"#;
    fs::write(folder.join("llama.json"), llama).expect("a file");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/gguf");
    fs::copy(root.join("llama_3_1_8b.gguf"), folder.join("llama.gguf")).expect("a file");
    let inspect = |more: &str| run(&folder, &format!("inspect --json --config {more}"));
    let group = |more: &str| -> serde_json::Value {
        let output = inspect(more);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let object: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        object["groups"][0].clone()
    };
    let explicit = "--pairing interleaved --head-dim 96 --rotary-offset 32 --rotary-dim 64";
    let given = group(&format!("mine.json {explicit}"));
    assert_eq!(
        [&given["head_dim"], &given["rotary_offset"], &given["rotary_dim"]],
        [96, 32, 64].map(|n| serde_json::json!(n)).each_ref()
    );
    assert_eq!(given["pairing"], "interleaved");
    for (more, word) in [
        ("mine.json", "--pairing"),
        ("mine.json --rotary-dim 64", "--pairing"),
        ("mine.json --pairing half-split --rotary-dim 130", "130 channels"),
        ("mine.json --pairing half-split --rotary-offset 2", "from 2"),
        ("llama.json --rotary-dim 64", "rotary_dim"),
        ("llama.json --head-dim 64", "head_dim"),
        ("llama.json --pairing interleaved", "pairing"),
        ("llama.gguf --pairing half-split", "pairing"),
    ] {
        let output = inspect(more);
        let error = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{more}");
        assert!(error.contains(word) && error.lines().count() == 1, "{more}: {error}");
    }
    assert_eq!(group("llama.json --rotary-dim 128")["rotary_dim"], 128);
    let llama = group("llama.gguf");
    assert_eq!((&llama["pairing"], &llama["base"]), (&"interleaved".into(), &500_000.0.into()));
}
