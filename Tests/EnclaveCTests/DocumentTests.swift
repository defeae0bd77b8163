// The code in the documentation, unchanged: each Swift block is a main.swift, each other block a
// program. It compiles, links as documented, runs, and exits with 0.

import Foundation
import TestSupport
import Testing

struct CodeBlock: CustomTestStringConvertible, Sendable {
  var file: String
  var line: Int
  var language: String
  var text: String
  var testDescription: String { "\(file):\(line)" }

  /// The blocks of README.md and of every article, in order.
  static let all: [CodeBlock] = {
    let sources = Programs.package.appending(path: "Sources").path
    let articles = (FileManager.default.enumerator(atPath: sources)?.allObjects ?? [])
      .compactMap { $0 as? String }.filter { $0.contains(".docc/") && $0.hasSuffix(".md") }
    return (["README.md"] + articles.sorted().map { "Sources/" + $0 }).flatMap(read)
  }()

  private static func read(_ file: String) -> [CodeBlock] {
    let path = Programs.package.appending(path: file).path
    guard let text = try? String(contentsOfFile: path, encoding: .utf8) else { return [] }
    var blocks: [CodeBlock] = []
    var open: CodeBlock?
    let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    for (index, line) in lines.enumerated() {
      if line.hasPrefix("```") {
        if let block = open { blocks.append(block) }
        open =
          open == nil
          ? CodeBlock(file: file, line: index + 2, language: String(line.dropFirst(3)), text: "")
          : nil
      } else {
        open?.text += line + "\n"
      }
    }
    return blocks
  }

  /// A module `Crypto` that declares the type names of swift-crypto 3 and 4.
  private static let crypto = Result { try Self.makeCrypto() }

  private static func makeCrypto() throws -> Scratch {
    let names = """
      AES ANSIKDFx963 BoringSSLAEAD ChaChaPoly CryptoASN1Error CryptoBoringWrapperError
      CryptoError CryptoKitASN1Error CryptoKitError CryptoKitMetaError Curve25519
      DiffieHellmanKeyAgreement Digest HKDF HMAC HPKE HPKEDiffieHellmanPrivateKey
      HPKEDiffieHellmanPrivateKeyGeneration HPKEDiffieHellmanPublicKey HPKEKEMPrivateKey
      HPKEKEMPrivateKeyGeneration HPKEKEMPublicKey HPKEPublicKeySerialization HashFunction
      HashedAuthenticationCode Insecure KDF KEM KEMPrivateKey KEMPublicKey MD5Digest MLDSA65
      MLDSA87 MLKEM1024 MLKEM768 MessageAuthenticationCode P256 P384 P521 RSAPSSSPKIError
      SHA1Digest SHA256 SHA256Digest SHA2_256 SHA2_384 SHA2_512 SHA384 SHA384Digest SHA3_256
      SHA3_256Digest SHA3_384 SHA3_384Digest SHA3_512 SHA3_512Digest SHA512 SHA512256
      SHA512256Digest SHA512Digest SharedSecret SymmetricKey SymmetricKeySize
      XWingMLKEM768X25519 _CryptoRSAError _RSA
      """
    let scratch = try Scratch()
    try names.split(whereSeparator: \.isWhitespace).map { "public enum \($0) {}" }
      .joined(separator: "\n")
      .write(toFile: scratch.file("Crypto.swift"), atomically: true, encoding: .utf8)
    let made = try Launch([
      "swiftc", "-parse-as-library", "-emit-module", "-module-name", "Crypto",
      scratch.file("Crypto.swift"), "-emit-module-path", scratch.file("Crypto.swiftmodule"),
    ]).run()
    guard made.status == 0 else { throw Failed(made.error) }
    return scratch
  }

  /// Compiles an unchanged Swift block, with swift-crypto's names imported. Returns the program's
  /// path.
  func program(in scratch: Scratch) throws -> String {
    let (source, program) = (scratch.file("main.swift"), scratch.file("program"))
    try ("import Crypto\n" + text).write(toFile: source, atomically: true, encoding: .utf8)
    let crypto = try Self.crypto.get()
    // The library as SwiftPM built it: the objects of the sample process, without its own code.
    let build = Programs.directory.path
    let objects = try String(
      contentsOfFile: build + "/enclave-demo.product/Objects.LinkFileList", encoding: .utf8
    )
    .split(separator: "\n").map { $0.trimmingCharacters(in: ["'"]) }
    .filter { !$0.contains("/enclave_demo.build/") }
    let sources = Programs.package.appending(path: "Sources").path
    let compiled = try Launch(
      [
        "swiftc", "-swift-version", "6", "-strict-memory-safety", "-warnings-as-errors", "-o",
        program, source, "-I", crypto.path, "-I", build + "/Modules", "-Xcc",
        "-fmodule-map-file=\(build)/CEnclaveSystem.build/module.modulemap",
        "-Xcc", "-I\(sources)/CEnclaveSystem/include", "-I", sources + "/CEnclaveSodium",
      ] + objects + ["-lsodium"]
    ).run()
    guard compiled.status == 0 else { throw Failed("\(compiled.error)\(compiled.output)") }
    return program
  }

  static func of(_ language: String) -> [CodeBlock] { all.filter { $0.language == language } }
}

@Suite struct DocumentTests {
  /// Notices blocks in other languages, and blocks that a typing mistake hides.
  @Test func everyCodeBlockIsTested() {
    #expect(CodeBlock.of("swift").count >= 5 && CodeBlock.of("c").count >= 1)
    let known: Set = ["swift", "c", "python", "rust", "sh", "yaml", ""]
    #expect(Set(CodeBlock.all.map(\.language)).isSubset(of: known))
    for block in CodeBlock.all where block.language == "" {
      #expect(!block.text.contains("import ") && !block.text.contains("#include"))
    }
  }

  @Test(arguments: CodeBlock.of("swift")) func swiftBlocksRun(block: CodeBlock) throws {
    let scratch = try Scratch(onTmpfs: true)
    let program = try block.program(in: scratch)
    let result = try Launch([program], stats: scratch).run()
    #expect(result.status == 0, "\(result.error)")
  }

  @Test(arguments: CodeBlock.of("c")) func cBlocksRun(block: CodeBlock) throws {
    let installed = try Installed.shared.get()
    let scratch = try Scratch(onTmpfs: true)
    let source = scratch.file("program.c")
    try block.text.write(toFile: source, atomically: true, encoding: .utf8)
    // Compile with the command in the block itself.
    let line = try #require(block.text.firstMatch(of: /\/\/ (cc program\.c .*)/)?.1)
    let launch = Launch(
      ["sh", "-c", "cd \(scratch.path) && \(line) -Wall -Wextra -Werror && ./a.out"],
      environment: ["PKG_CONFIG_PATH": installed.libraries + "/pkgconfig"])
    let result = try launch.run()
    #expect(result.status == 0, "\(result.error)")
  }

  @Test(arguments: CodeBlock.of("python")) func pythonBlocksRun(block: CodeBlock) throws {
    let installed = try Installed.shared.get()
    let scratch = try Scratch(onTmpfs: true)
    let source = scratch.file("program.py")
    try block.text.write(toFile: source, atomically: true, encoding: .utf8)
    let result = try Launch(
      ["python3", source], stats: scratch, environment: installed.bindingEnvironment
    ).run()
    #expect(result.status == 0, "\(result.error)")
  }

  @Test(
    .enabled(if: isInstalled("cargo"), "cargo is not installed"), arguments: CodeBlock.of("rust"))
  func rustBlocksRun(block: CodeBlock) throws {
    let installed = try Installed.shared.get()
    let scratch = try Scratch(onTmpfs: true)
    try """
    [package]
    name = "program"
    edition = "2021"
    [dependencies]
    enclave = { path = "\(Installed.bindings)/rust" }
    [lints.rust]
    warnings = "deny"
    """.write(toFile: scratch.file("Cargo.toml"), atomically: true, encoding: .utf8)
    try FileManager.default.createDirectory(
      atPath: scratch.file("src"), withIntermediateDirectories: false)
    try block.text.write(toFile: scratch.file("src/main.rs"), atomically: true, encoding: .utf8)
    var launch = Launch(
      ["cargo", "run", "--offline", "--quiet"], stats: scratch,
      environment: installed.bindingEnvironment)
    launch.directory = scratch.path
    let result = try launch.run()
    #expect(result.status == 0, "\(result.error)")
  }
}
