// Makes SwiftPM build enclave-demo whenever it builds memwatch. A plain dependency between two
// executables would link the demo's library into the inspector, which must not hold it.

import PackagePlugin

@main
struct DemoBuilder: BuildToolPlugin {
  func createBuildCommands(context: PluginContext, target: any Target) throws -> [Command] { [] }
}
