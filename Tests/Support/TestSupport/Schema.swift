// The part of JSON Schema that the package's own schema uses.

import Foundation
package import MemwatchInspector

public enum Schema {
  /// A document as Foundation reads it from JSON.
  package static func decoded(_ value: Value) -> Any {
    switch value {
    case .null: NSNull()
    case .bool(let flag): flag
    case .number(let number): number
    case .text(let text): text
    case .unrecognized: "unrecognized"
    case .list(let items): items.map(decoded)
    case .object(let members):
      Dictionary(members.map { ($0.0, decoded($0.1)) }, uniquingKeysWith: { first, _ in first })
    }
  }

  /// The violations of the schema in `value`.
  public static func violations(_ value: Any, _ schema: [String: Any], at path: String = "$")
    -> [String]
  {
    var found: [String] = []
    if let options = schema["anyOf"] as? [[String: Any]] {
      if !options.contains(where: { violations(value, $0, at: path).isEmpty }) {
        found.append("\(path): no alternative fits \(value)")
      }
    }
    if let constant = schema["const"] as? String, value as? String != constant {
      found.append("\(path): is not \(constant)")
    }
    if let allowed = schema["enum"] as? [Any] {
      let fits = allowed.contains { option in
        option is NSNull
          ? value is NSNull : (option as? String) == (value as? String) && value is String
      }
      if !fits { found.append("\(path): \(value) is not in the list") }
    }
    let types = (schema["type"] as? [String]) ?? (schema["type"] as? String).map { [$0] } ?? []
    if !types.isEmpty, !types.contains(where: { isType(value, $0) }) {
      found.append("\(path): \(value) is not \(types)")
    }
    if let pattern = schema["pattern"] as? String, let text = value as? String,
      text.range(of: pattern, options: .regularExpression) == nil
    {
      found.append("\(path): \(text) does not match \(pattern)")
    }
    if let object = value as? [String: Any] {
      let properties = schema["properties"] as? [String: [String: Any]] ?? [:]
      for name in schema["required"] as? [String] ?? [] where object[name] == nil {
        found.append("\(path).\(name): is missing")
      }
      for (name, member) in object {
        if let property = properties[name] {
          found += violations(member, property, at: "\(path).\(name)")
        } else if schema["additionalProperties"] as? Bool == false {
          found.append("\(path).\(name): is not in the schema")
        }
      }
    }
    if let list = value as? [Any], let items = schema["items"] as? [String: Any] {
      for (index, item) in list.enumerated() {
        found += violations(item, items, at: "\(path)[\(index)]")
      }
    }
    return found
  }

  private static func isType(_ value: Any, _ type: String) -> Bool {
    switch type {
    case "null": value is NSNull
    case "string": value is String
    case "array": value is [Any]
    case "object": value is [String: Any]
    case "boolean": (value as? NSNumber).map { isBoolean($0) } ?? false
    case "integer":
      (value as? NSNumber).map { !isBoolean($0) && $0.doubleValue.rounded() == $0.doubleValue }
        ?? false
    default: false
    }
  }

  private static func isBoolean(_ number: NSNumber) -> Bool {
    String(cString: number.objCType) == "c" || String(cString: number.objCType) == "B"
  }

  /// The violations in a document of the schema for its kind.
  public static func violations(in document: Any) throws -> [String] {
    guard let kind = (document as? [String: Any])?["document"] as? String else {
      return ["the document does not say what it is"]
    }
    return violations(document, try definition(kind))
  }

  public static func snapshot() throws -> [String: Any] { try definition("snapshot") }

  /// A definition, with its references resolved.
  public static func definition(_ name: String) throws -> [String: Any] {
    let all = try whole()["$defs"] as? [String: Any] ?? [:]
    func resolved(_ part: Any) -> Any {
      if let list = part as? [Any] { return list.map(resolved) }
      guard let object = part as? [String: Any] else { return part }
      if let reference = object["$ref"] as? String {
        return all[String(reference.dropFirst("#/$defs/".count))].map(resolved) ?? part
      }
      return object.mapValues(resolved)
    }
    guard let definition = all[name] else { throw Failed("the schema has no \(name)") }
    return resolved(definition) as! [String: Any]
  }

  /// The schema's file.
  public static func whole() throws -> [String: Any] {
    let file = Programs.package.appending(path: "Assets/memwatch-2.schema.json")
    return try JSONSerialization.jsonObject(with: Data(contentsOf: file)) as! [String: Any]
  }
}
