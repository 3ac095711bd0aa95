//! Arguments to the command line, its answer to the exit code: 0 done, 1 failed, 2 usage.

fn main() -> std::process::ExitCode {
    infall::cli::main(std::env::args_os().skip(1)).into()
}
