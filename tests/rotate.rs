//! `examples/rotate.rs` as a program: files in, files out, and what it says of bad ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use condensed_rope::{CondensedRotaryEmbedding, Layout, Pairing, Positions, cpu};
use half::bf16;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use testkit::call::noise;
use testkit::models;

/// The program: cargo puts examples beside tests; the bundle puts all in one folder.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("a path");
    let folder = test.parent().and_then(Path::parent).expect("a test is in a folder of a folder");
    let places = [folder.join("examples/rotate"), folder.join("rotate")];
    let found = places.into_iter().find(|place| place.exists());
    found.expect("build it first: cargo build --features hf --example rotate")
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
    cpu::Rope::new(config.layers[0].scaled.frequencies(), Pairing::HalfSplit)
        .rotate(cpu::Heads::in_place(&mut q, Layout::thd(3, 32, 128)), None, Positions::ids(&ids))
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

/// One line on standard error, exit code 2, no output file.
#[test]
fn bad_input_leaves_nothing_behind() {
    let folder = folder("bad");
    fs::write(folder.join("config.json"), models::json("longchat_7b_16k")).expect("a file");
    fs::write(folder.join("gemma.json"), models::json("gemma_3_12b")).expect("a file");
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
        ("--config gemma.json --input in.safetensors", "sliding_attention"),
        ("--config config.json --input in.safetensors --backend abacus", "abacus"),
        ("--config config.json", "--input"),
        ("--input in.safetensors", "--config"),
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
        for layer in &config.layers {
            let shape = [3, 4, layer.head_dim];
            write(&folder.join("in.safetensors"), shape, shape, (&[3], &[5, 131_071, 70]));
            let layer_type = layer.layer_type.as_ref();
            let choice = layer_type.map_or(String::new(), |name| format!(" --layer-type {name}"));
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
