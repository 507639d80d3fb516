{
  # node-gyp is not used: this one target hands over to the CMake build, for tools that look for a binding.gyp.
  "targets": [
    {
      "target_name": "credence",
      "type": "none",
      "actions": [
        {
          "action_name": "cmake",
          "inputs": ["CMakeLists.txt"],
          "outputs": ["build/Release/credence.node"],
          "action": ["node", "native/install.cjs"]
        }
      ]
    }
  ]
}
