//! What uWebSockets is linked with; its crate leaves that to whoever uses it.

fn main() {
    for library in ["uv", "ssl", "crypto", "z", "stdc++"] {
        println!("cargo:rustc-link-lib={library}");
    }
}
