pub fn builtin() -> module::Builtin {
    module::Builtin {
        name: "x",
        main: |_| Box::pin(async { Ok(()) }),
    }
}
